"""Confidence intervals of objectives, and of the difference between two plans, from their items."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from results.shares import are_verdicts, mcnemar, share_interval, with_doubt
from searcher.contracts.objective import Objective
from searcher.runs.clusters import standard_errors

LEVEL = 0.95

Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class Gap:
    """How far a plan is from another, measured on the same items.

    Attributes:
        value: relative difference, -0.1 for 10% less, or the plain difference of the objective's values; infinite where
            one of the two breaks the model, NaN where both do.
        low: lower end of the 95% interval, None where it cannot be told.
        high: upper end.
        relative: whether it is a relative difference: so for objectives that are the exp of a mean, as perplexity is.
        p: of McNemar's exact test, for items that are each right or wrong; None for others.
    """

    value: float
    low: float | None = None
    high: float | None = None
    relative: bool = False
    p: float | None = None


def interval(objective: Objective, rows: NDArray[np.float64], documents: Sequence[int] | None = None) -> Ends:
    """A Student t interval of the mean over items, carried over to the objective's value; Wilson's for shares.

    It ends where the objective's range does; a share of verdicts has an interval of its own kind, see
    :func:`results.shares.share_interval`.

    Items of one document are not independent: with `documents` the spread is taken between documents. These give
    unequal numbers of windows, so the variance is the bias-reduced one (CR2) and the degrees of freedom are
    Satterthwaite's (Bell & McCaffrey 2002, Survey Methodology 28); for documents of equal length, or items without any,
    both are the usual ones. With as many degrees of freedom as documents less one, the plain cluster-robust interval
    covers only 82 to 91% on documents as unequal as those of the default text, this one 92 to 96%.

    Differences between real plans of SmolLM2 are skewed (0.5 at the median), and t covers 93 to 95% of the time from 8
    items on. Johnson's and Hall's corrections for skewness and the bootstrap-t were no better there; a percentile
    bootstrap would need 64. See `tests/results/test_coverage.py`.

    Args:
        objective: whose value it is.
        rows: float64 (rows,), the objective's numbers for one plan.
        documents: the document of each item, `PACKED` for several; None if all items are independent.

    Returns:
        The ends at level 95%, or None twice where they cannot be told (one item, or a plan that breaks the model).
    """
    items = objective.items(rows)
    if are_verdicts(objective, rows):
        return share_interval(items, objective.weights(rows), documents, LEVEL) or (None, None)
    half = _half_width(items, documents)
    if half is None:
        return None, None
    least, largest = range_of(objective)
    with np.errstate(over="ignore"):
        low, high = (float(objective.finish(float(end))) for end in (items.mean() - half, items.mean() + half))
    return max(low, least), min(high, largest)


def gap(
    objective: Objective,
    plan: NDArray[np.float64],
    other: NDArray[np.float64],
    documents: Sequence[int] | None = None,
) -> Gap:
    """How far a plan is from another, with the interval of their paired differences; see :func:`interval`.

    Plans differ less than items do, so pairing makes the interval several times narrower. It is valid for two plans
    that were chosen without a look at these items.

    Independent items that are each right or wrong are tested by McNemar's exact test, see
    :func:`results.shares.mcnemar`. Their interval is that of Bonett & Price (2012), see
    :func:`results.shares.with_doubt`, with Student's quantile: it keeps its level in small samples, also where the
    plans differ on no item. Where the test cannot tell the plans apart the interval is moved out to 0. So both agree: 0
    is outside the interval where p is at most 5%, and only there, see `tests/results/test_mcnemar.py`.

    Args:
        objective: whose values they are.
        plan: float64 (rows,), its numbers for the plan.
        other: the same for the plan it is compared with.
        documents: see :func:`interval`.
    """
    differences = paired_differences(objective, plan, other)
    mean = float(differences.mean())
    if not (are_verdicts(objective, plan) and are_verdicts(objective, other)):
        return make_gap(objective, mean, mean, _half_width(differences, documents))
    p = mcnemar(differences) if documents is None and objective.weights(plan) is None else None
    doubted, documents = with_doubt(differences, documents)
    found = make_gap(objective, mean, float(doubted.mean()), _half_width(doubted, documents))
    return found if p is None else _in_agreement(replace(found, p=p))


def _in_agreement(found: Gap) -> Gap:
    """Its interval holds 0 where the test cannot tell the two plans apart."""
    if found.p is None or found.p <= 1 - LEVEL or found.low is None or found.high is None:
        return found
    return replace(found, low=min(found.low, 0.0), high=max(found.high, 0.0))


def paired_differences(
    objective: Objective, plan: NDArray[np.float64], other: NDArray[np.float64]
) -> NDArray[np.float64]:
    """float64 (items,): the items of a plan less those of another; NaN where both break the model."""
    with np.errstate(invalid="ignore"):
        return _items(objective, plan) - _items(objective, other)


def make_gap(objective: Objective, mean: float, middle: float, half: float | None) -> Gap:
    """A gap from a difference of means, within the objective's range.

    Args:
        objective: whose values differ.
        mean: difference of the means over items.
        middle: of the interval.
        half: its half width; None where it cannot be told.
    """
    relative = is_exponential(objective)
    least, largest = range_of(objective)

    def shown(difference: float) -> float:
        with np.errstate(over="ignore"):
            return float(np.expm1(difference)) if relative else difference

    if half is None:
        return Gap(shown(mean), relative=relative)
    farthest = np.inf if relative else largest - least
    low, high = max(shown(middle - half), -farthest), min(shown(middle + half), farthest)
    return Gap(shown(mean), low, high, relative)


def describe_interval(objective: Objective, rows: NDArray[np.float64]) -> str:
    """What :func:`interval` gives, in words: 95% Student t interval over the windows."""
    kind = "Wilson" if are_verdicts(objective, rows) else "Student t"
    return f"{LEVEL:.0%} {kind} interval over the {'windows' if objective.reads == 'windows' else 'items'}"


def range_of(objective: Objective) -> tuple[float, float]:
    """The least and the largest value there can be."""
    return (0.0, 1.0) if objective.unit == "share" else objective.within


def _items(objective: Objective, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The objective's items, the worst there can be for NaN: a plan that breaks the model."""
    items = objective.items(rows)
    return np.where(np.isnan(items), np.inf if objective.lower_is_better else -np.inf, items)


def is_exponential(objective: Objective) -> bool:
    """Whether the value is the exp of the mean over items, so that differences of means are ratios of values."""
    return all(np.isclose(objective.finish(mean), np.exp(mean)) for mean in (-1.0, 0.0, 1.5))


def _half_width(items: NDArray[np.float64], documents: Sequence[int] | None) -> float | None:
    """Of the interval of the mean; None where the spread cannot be told."""
    errors, degrees = standard_errors(items, documents)
    error = float(errors)
    return None if np.isnan(error) else float(stats.t.ppf((1 + LEVEL) / 2, degrees)) * error
