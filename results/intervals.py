"""Confidence intervals of objectives, and of the difference between two plans, from their items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from searcher.objective import Objective

LEVEL = 0.95
PACKED = -1
"""The document of a window put together from several: such a window is a cluster of its own."""

Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class Gap:
    """How far a plan is from another, measured on the same items.

    Attributes:
        value: relative difference, -0.1 for 10% less, or the plain difference of the objective's values.
        low: lower end of the 95% interval, None where it cannot be told.
        high: upper end.
        relative: whether it is a relative difference: so for objectives that are the exp of a mean, as perplexity is.
    """

    value: float
    low: float | None = None
    high: float | None = None
    relative: bool = False


def interval(objective: Objective, rows: NDArray[np.float64], documents: Sequence[int] | None = None) -> Ends:
    """A Student t interval of the mean over items, carried over to the objective's value.

    Items of one document are not independent: with `documents` the spread is taken between documents (the
    cluster-robust variance of a mean, Liang & Zeger 1986, with as many degrees of freedom as documents less one). On
    losses as skewed as those between plans (`tests/results/test_coverage.py`) it covers at its rate from 8 items on; a
    percentile bootstrap would need 64.

    Args:
        objective: whose value it is.
        rows: float64 (rows,), the objective's numbers for one plan.
        documents: the document of each item, `PACKED` for several; None if all items are independent.

    Returns:
        The ends at level 95%, or None twice where they cannot be told (one item, or a plan that breaks the model).
    """
    items = objective.items(rows)
    half = _half_width(items, documents)
    if half is None:
        return None, None
    with np.errstate(over="ignore"):
        return float(objective.finish(float(items.mean() - half))), float(objective.finish(float(items.mean() + half)))


def gap(
    objective: Objective,
    plan: NDArray[np.float64],
    other: NDArray[np.float64],
    documents: Sequence[int] | None = None,
) -> Gap:
    """How far a plan is from another, with the interval of their paired differences; see :func:`interval`.

    Plans differ less than items do, so pairing makes the interval several times narrower. It is valid for two plans
    that were chosen without a look at these items.

    Args:
        objective: whose values they are.
        plan: float64 (rows,), its numbers for the plan.
        other: the same for the plan it is compared with.
        documents: see :func:`interval`.
    """
    differences = objective.items(plan) - objective.items(other)
    half = _half_width(differences, documents)
    mean, relative = float(differences.mean()), is_exponential(objective)

    def shown(difference: float) -> float:
        with np.errstate(over="ignore"):
            return float(np.expm1(difference)) if relative else difference

    if half is None:
        return Gap(shown(mean), relative=relative)
    return Gap(shown(mean), shown(mean - half), shown(mean + half), relative)


def is_exponential(objective: Objective) -> bool:
    """Whether the value is the exp of the mean over items, so that differences of means are ratios of values."""
    return all(np.isclose(objective.finish(mean), np.exp(mean)) for mean in (-1.0, 0.0, 1.5))


def _half_width(items: NDArray[np.float64], documents: Sequence[int] | None) -> float | None:
    if len(items) < 2 or not np.isfinite(items).all():
        return None
    residuals = items - items.mean()
    if documents is not None:
        residuals = _totals(residuals, documents)
    clusters = len(residuals)
    if clusters < 2:
        return None
    error = np.sqrt(clusters / (clusters - 1) * np.sum(residuals**2)) / len(items)
    return float(stats.t.ppf((1 + LEVEL) / 2, clusters - 1) * error)


def _totals(residuals: NDArray[np.float64], documents: Sequence[int]) -> NDArray[np.float64]:
    """The sum over each document, and every packed window by itself."""
    numbers = np.asarray(documents)
    packed = numbers == PACKED
    _, cluster = np.unique(numbers[~packed], return_inverse=True)
    sums = np.bincount(cluster, weights=residuals[~packed])
    return np.concatenate([sums.astype(np.float64), residuals[packed]])
