"""Rank correlation with an interval."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation.

    Attributes:
        value: -1 to 1; None where one side is the same for all units.
        low: lower end of the 95% interval; None with fewer than 4 of them, and where all ranks agree or are reversed.
        high: upper end.
        count: over how many units, or pairs of them.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int

    def facts(self) -> dict[str, Any]:
        """JSON."""
        return asdict(self)


def correlate(one: NDArray[np.float64], other: NDArray[np.float64]) -> Correlation:
    """Spearman's rank correlation of two numbers of each unit, with the interval by Fisher's transformation.

    The interval is atanh(r) +- z sqrt((1 + r^2/2) / (n - 3)) carried back (Bonett & Wright 2000, Psychometrika 65): it
    covers 95% where n is not tiny and r not near 1. It takes the units for a sample of more of their kind, and says how
    far so few units can be trusted to show a relation; not how the numbers would change on other text.

    Args:
        one: float64 (units,). NaN, of a plan that breaks the model, ranks with infinity above all others.
        other: the same.
    """
    count = len(one)
    ranks = [stats.rankdata(np.nan_to_num(side, nan=np.inf, posinf=np.inf, neginf=-np.inf)) for side in (one, other)]
    if count < 2 or any((side == side[0]).all() for side in ranks):
        return Correlation(None, None, None, count)
    value = float(np.clip(stats.pearsonr(*ranks).statistic, -1, 1))
    if count < 4 or abs(value) > 1 - 1e-12:
        return Correlation(value, None, None, count)
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + value**2 / 2) / (count - 3))
    centre = np.arctanh(value)
    return Correlation(value, float(np.tanh(centre - half)), float(np.tanh(centre + half)), count)
