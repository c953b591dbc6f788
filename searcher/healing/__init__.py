"""Healing: what is fitted on the heal split to a model that a plan has taken parts of."""
