"""Checkpoints: a pruned and healed model in a folder that loads again and gives what the search measured."""
