"""Intervals of shares: those of the literature, inside the range, and never without width."""

import math

import numpy as np
import pytest
from scipy import stats

from objectives.divergence import KL
from objectives.lm_eval import LmEval
from objectives.loss import Perplexity
from objectives.stability import Stability
from results.intervals import gap, interval
from results.shares import wilson
from searcher.contracts.objective import Objective

QUANTILE = float(stats.norm.ppf(0.975))


class Own(Objective):
    """A share as a plug-in of a user's may have it."""

    unit = "share"
    lower_is_better = False
    reads = "inputs"

    def measure(self, candidate):
        raise NotImplementedError


def verdicts(right, of):
    return np.array([1.0] * right + [0.0] * (of - right))


@pytest.mark.parametrize("objective", [Own(), LmEval("piqa")], ids=["share", "lm-eval"])
@pytest.mark.parametrize("right", [0, 1, 60, 118, 119, 120])
def test_a_share_of_right_answers_has_the_interval_of_wilson(objective, right):
    known = stats.binomtest(right, 120).proportion_ci(method="wilson")
    low, high = interval(objective, verdicts(right, 120))
    assert (low, high) == (pytest.approx(known.low), pytest.approx(known.high))
    assert 0 <= low < high <= 1


@pytest.mark.parametrize(
    ("objective", "rows", "range_"),
    [
        (Own(), np.array([0.97, 1.0, 1.0, 0.5]), (0, 1)),  # a share of each window
        (Own(), np.array([0.0, 0.0, 0.01, 0.2]), (0, 1)),
        (Stability("items.jsonl"), np.array([40.0, 3.0, 2.0, -1.5, 2.0]), (0, 1)),
        (Stability("items.jsonl"), np.array([-40.0, 3.0, 2.0, -1.5, 2.0]), (0, 1)),
        (KL(), np.array([0.0, 0.001, 0.0, 0.3]), (0, math.inf)),
        (Perplexity(), np.array([0.0, 0.001, 0.0, 2.0]), (1, math.inf)),
    ],
)
def test_no_interval_leaves_the_range_of_its_objective(objective, rows, range_):
    low, high = interval(objective, rows)
    assert range_[0] <= low <= objective.value(rows) <= high <= range_[1]
    assert low < high


def test_a_divergence_that_is_nothing_everywhere_is_no_share():
    assert interval(KL(), np.zeros(32)) == (0.0, 0.0)


@pytest.mark.parametrize("documents", [[0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 1, 1, 1, 1]])
def test_answers_of_one_document_are_worth_fewer(documents):
    alone = interval(Own(), verdicts(8, 8))
    low, high = interval(Own(), verdicts(8, 8), documents)
    assert high == 1
    assert low < alone[0]  # Student's quantile, and as many as there are documents
    degrees = len(set(documents)) - 1
    assert low == pytest.approx(wilson(1.0, len(set(documents)), float(stats.t.ppf(0.975, degrees)))[0])


def test_items_that_weigh_alike_have_the_plain_interval_and_one_of_all_the_weight_that_of_a_single_item():
    stability = Stability("items.jsonl")
    alike = np.array([2.0] * 18 + [-2.0] * 2)
    assert interval(stability, alike) == pytest.approx(wilson(0.9, 20, QUANTILE))
    alone = np.array([400.0] + [1.0] * 99)
    assert interval(stability, alone) == pytest.approx(wilson(1.0, 1, QUANTILE))


@pytest.mark.parametrize("same", [verdicts(5, 120), verdicts(120, 120)])
def test_equal_answers_do_not_prove_that_two_plans_are_equal(same):
    found = gap(Own(), same, same)
    assert found.value == 0
    assert found.low < 0 < found.high
    assert found.high == pytest.approx(2.0 / 120, rel=0.5)  # the order of Bonett and Price


def test_a_difference_of_shares_stays_between_minus_one_and_one():
    found = gap(Own(), verdicts(4, 4), verdicts(0, 4))
    assert found.value == 1
    assert -1 <= found.low < found.high <= 1


@pytest.mark.parametrize(("share", "count"), [(0.9, 20), (0.5, 40), (0.98, 120)])
def test_covers_at_the_stated_rate(share, count):
    chances = stats.binom.pmf(np.arange(count + 1), count, share)
    ends = [interval(Own(), verdicts(right, count)) for right in range(count + 1)]
    covered = sum(chance for chance, (low, high) in zip(chances, ends, strict=True) if low <= share <= high)
    assert covered > 0.92
