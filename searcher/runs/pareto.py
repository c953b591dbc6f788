"""Which points are on the Pareto front."""

from collections.abc import Sequence

import moocore
import numpy as np


def nondominated(points: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other point beats, lower being better in every coordinate; of equal points all are kept.

    Coordinates that are not finite count as worse than any other.
    """
    if not points:
        return []
    table = np.asarray(points, dtype=np.float64)
    table = np.where(np.isfinite(table), table, np.finfo(np.float64).max)
    return list(map(bool, moocore.is_nondominated(table, keep_weakly=True)))
