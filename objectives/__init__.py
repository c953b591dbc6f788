"""Objectives, one measure a file. They see a candidate: the model replayed under a plan."""
