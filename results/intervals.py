"""Confidence intervals of objectives from their items."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from searcher.objective import Objective

LEVEL = 0.95


def interval(objective: Objective, rows: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """A Student t interval of the mean over items, carried over to the objective's value.

    Items are taken to be independent. The t interval covers well from about 8 items on; a percentile bootstrap would
    need 64.

    Args:
        objective: whose value it is.
        rows: float64 (rows,), the objective's numbers for one plan.

    Returns:
        The ends at level 95%, or None twice where they cannot be told (one item, or a plan that breaks the model).
    """
    items = objective.items(rows)
    if len(items) < 2 or not np.isfinite(items).all():
        return None, None
    half = stats.t.ppf((1 + LEVEL) / 2, len(items) - 1) * items.std(ddof=1) / np.sqrt(len(items))
    with np.errstate(over="ignore"):
        return float(objective.finish(float(items.mean() - half))), float(objective.finish(float(items.mean() + half)))
