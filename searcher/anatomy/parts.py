"""The parts of an analysis; by themselves, so that `--help` needs no torch."""

PARTS = ("influence", "updates", "heads", "contiguous", "replacement", "interactions", "shapley")
"""In the order in which they are measured. The last, which samples sets of many units, is measured if it is named."""
