"""Shares of verdicts, right or wrong: intervals from 0 to 1 that never shrink to a point, and a test of two plans."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from searcher.contracts.objective import Objective
from searcher.runs.clusters import PACKED, count_clusters, standard_errors

UNITS = ("share", "score")
"""Units of objectives whose items may be verdicts; a divergence that is 0 everywhere is none."""


def are_verdicts(objective: Objective, rows: NDArray[np.float64]) -> bool:
    """Whether an objective's value is the share of its items that are right, each by itself right or wrong."""
    if objective.weights(rows) is not None:
        return True
    return objective.unit in UNITS and bool(np.isin(objective.items(rows), (0.0, 1.0)).all())


def share_interval(
    items: NDArray[np.float64], weights: NDArray[np.float64] | None, documents: Sequence[int] | None, level: float
) -> tuple[float, float] | None:
    """Wilson's score interval; where items are not independent, or do not count alike, for so many that are and do.

    120 of 120 right answers give 96.9 to 100%. With documents, the number of items is divided by their design effect,
    and the quantile is Student's (Franco et al. 2019, Journal of Survey Statistics and Methodology 7); items that
    weigh differently count as (sum of weights)² / (sum of squared weights), or fewer (Kish 1965).

    Args:
        items: float64 (items,), whose mean is the share.
        weights: float64 (items,), how much each counts; None if all count alike.
        documents: the document of each; None if all are independent.
        level: of the interval, such as 0.95.

    Returns:
        The ends; None for a single item, or one that is not a number.
    """
    errors, degrees = standard_errors(items, documents)
    if np.isnan(errors):
        return None
    count, share = float(len(items)), float(np.clip(items.mean(), 0, 1))
    if documents is not None or weights is not None:
        count = _equal_items(items, weights, documents, float(errors))
    quantile = stats.norm.ppf((1 + level) / 2) if documents is None else stats.t.ppf((1 + level) / 2, degrees)
    return wilson(share, count, float(quantile))


def wilson(share: float, count: float, quantile: float) -> tuple[float, float]:
    """The interval of a share of so many; that of `scipy.stats.binomtest`, which takes whole numbers only."""
    added = quantile**2 / count
    middle = (share + added / 2) / (1 + added)
    half = np.sqrt(added * share * (1 - share) + added**2 / 4) / (1 + added)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _equal_items(
    items: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    documents: Sequence[int] | None,
    error: float,
) -> float:
    """How many independent items of equal weight would tell as much."""
    share = float(items.mean())
    plain = share * (1 - share) / (len(items) - 1)  # the squared error if they were that
    counting = len(items) if weights is None else weights.sum() ** 2 / (weights**2).sum()
    if error > 0 and plain > 0:
        return float(min(counting, len(items) * plain / error**2))
    return float(min(counting, len(items) if documents is None else count_clusters(documents)))


def with_doubt(
    differences: NDArray[np.float64], documents: Sequence[int] | None
) -> tuple[NDArray[np.float64], Sequence[int] | None]:
    """Paired differences of verdicts with two more, one for either side, so that equal answers do not seem certain.

    Source: Bonett & Price 2012, Journal of Educational and Behavioral Statistics 37.
    """
    more = None if documents is None else [*documents, PACKED, PACKED]
    return np.append(differences, [1.0, -1.0]), more


def mcnemar(differences: NDArray[np.float64]) -> float:
    """Two-sided p of the hypothesis that two plans have equally many items right, from the items they differ on.

    If it holds, each of these is as likely to be won by either plan: an exact binomial test (McNemar 1947,
    Psychometrika 12). Where the plans differ on none, p is 1.

    Args:
        differences: float64 (items,), 1, 0 or -1: the items of one plan less those of the other.
    """
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
