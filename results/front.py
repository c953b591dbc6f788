"""Pareto fronts and how good they are: what is more than non-dominance comes from moocore."""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from searcher.runs.pareto import nondominated

__all__ = ["additive_epsilon", "hypervolume", "igd_plus", "nondominated"]

Points = Sequence[Sequence[float]]
"""Points of equally many coordinates, lower being better in each."""


def hypervolume(points: Points, worst: Sequence[float]) -> float:
    """The volume that the points dominate, up to a reference point; points beyond it, or not finite, add nothing.

    Source: Zitzler & Thiele 1998 (PPSN V).

    Args:
        points: lower is better.
        worst: the reference point; what is no better than it in every coordinate does not count.
    """
    table = _finite(points)
    return float(moocore.hypervolume(table, ref=list(worst))) if len(table) else 0.0


def additive_epsilon(points: Points, reference: Points) -> float:
    """By how much the points must be moved in every coordinate to be nowhere worse than a reference set.

    Source: Zitzler et al. 2003 (IEEE TEC 7), the additive form.
    """
    return float(moocore.epsilon_additive(_finite(points), ref=_finite(reference)))


def igd_plus(points: Points, reference: Points) -> float:
    """The mean distance from a reference set to the points, counting only what they are worse by.

    Source: Ishibuchi et al. 2015 (EMO), which unlike IGD never prefers a set that is dominated.
    """
    return float(moocore.igd_plus(_finite(points), ref=_finite(reference)))


def _finite(points: Points) -> NDArray[np.float64]:
    table = np.asarray(points, dtype=np.float64)
    return table[np.isfinite(table).all(axis=1)] if len(table) else table
