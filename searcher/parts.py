"""The parts of an analysis; by themselves, so that `--help` needs no torch."""

PARTS = ("influence", "updates", "heads", "contiguous", "replacement", "interactions", "shapley")
"""In the order in which they are measured. The last, which samples sets of many units, is measured if it is named."""
NOT_TAKEN = ("heal", "heal_windows", "objective", "objective_args", "report_windows", "workers", "ray_address")
"""Options of measurement that an analysis has no use for."""
