"""Intervals cover at the stated rate, and equal plans are called different no more often than stated.

Differences between plans are made like those that real runs of SmolLM2 have on its default text (138 pairs of plans of
equal size, 32 windows of 128 tokens): the losses of a window have a standard deviation of 0.45 nats and are correlated at
0.94 between plans; differences have one of 0.07 to 0.4 (median 0.16), a skewness of -1.6 to 1.2 (0.5 in size at the
median), heavier tails than normal ones (excess kurtosis 0.6 at the median), and a correlation of 0.2 within a document
(0.7 at most).
"""

import math

import numpy as np
import pytest
from scipy import stats

from objectives.loss import Loss, Perplexity
from results.intervals import gap, interval

REPEATS = 3000
STATED = 0.95
SLACK = 3 * math.sqrt(STATED * (1 - STATED) / REPEATS)  # three standard errors of the simulation
WINDOWS = pytest.mark.parametrize("windows", [8, 16, 32, 64])


DOCUMENTS = [2, 5, 5, 6, 9, 14, 19, 19, 20, 20, 21, 22, *[25] * 8, *[26] * 12]
"""Where the 32 report windows of the default text come from."""


def losses(rng, shape, shift=0.0):
    """Losses of plans that differ by chance and by `shift` from a common one: float64 (plans, windows).

    Every other plan is much worse on a few windows, so that the differences are skewed.
    """
    common = rng.gamma(80.0, 0.05, shape[1:])  # mean 4, standard deviation 0.45
    skewed = 0.1 * (rng.gamma(2.0, 1.0, shape) - 2.0) * (np.arange(shape[0]) % 2 == 0)[:, None]
    return common + skewed + 0.05 * rng.standard_t(6, shape) + shift


def test_the_losses_are_like_real_ones():
    one, other = losses(np.random.default_rng(0), (2, 100_000))
    assert np.std(one) == pytest.approx(0.46, abs=0.02)
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(0.94, abs=0.02)
    assert np.std(one - other) == pytest.approx(0.16, abs=0.01)
    assert 0.6 < stats.skew(one - other) < 1.2
    assert 0.6 < stats.kurtosis(one - other) < 3


@WINDOWS
def test_a_known_difference_is_covered(windows):
    rng, hits = np.random.default_rng(windows), 0
    for _ in range(REPEATS):
        one, other = losses(rng, (2, windows), np.array([[0.05], [0.0]]))
        found = gap(Loss(), one, other)
        hits += found.low <= 0.05 <= found.high
    assert abs(hits / REPEATS - STATED) < SLACK + 0.005


@WINDOWS
def test_one_sided_skew_costs_little(windows):
    """A plan that is as good on most windows and much worse on a few: what a symmetric interval is worst at."""
    rng, hits = np.random.default_rng(windows), 0
    for _ in range(REPEATS):
        one, other = losses(rng, (2, windows))
        found = gap(Loss(), one + 0.1 * (rng.gamma(1.5, 1.0, windows) - 1.5), other)
        hits += found.low <= 0 <= found.high
    assert hits / REPEATS > STATED - SLACK - 0.015


@WINDOWS
def test_equal_plans_are_called_different_no_more_often_than_stated_also_for_the_best_of_twelve(windows):
    """The best of twelve equal plans on 4 search windows, against the first, on the report windows."""
    rng, called = np.random.default_rng(windows), 0
    for _ in range(REPEATS):
        best = losses(rng, (12, 4)).mean(axis=1).argmin()
        report = losses(rng, (12, windows))
        found = gap(Perplexity(), report[best], report[(best + 1) % 12])
        called += not found.low <= 0 <= found.high
    assert called / REPEATS < 1 - STATED + SLACK + 0.005


def test_choosing_on_the_report_windows_themselves_would_not_do():
    """The winner's curse, three times as many false claims as the 2.5% stated: so plans are chosen on other text."""
    rng, called = np.random.default_rng(0), 0
    for _ in range(REPEATS):
        report = losses(rng, (12, 32))
        found = gap(Loss(), report[report.mean(axis=1).argmin()], report[0])
        called += found.high is not None and found.high < 0
    assert called / REPEATS > 3 * (1 - STATED) / 2


@pytest.mark.parametrize("documents", [8, 16])
def test_windows_of_one_document_are_one_cluster(documents):
    """Four windows a document that share what the document adds."""
    rng, plain, clustered = np.random.default_rng(documents), 0, 0
    numbers = np.repeat(np.arange(documents), 4)
    for _ in range(REPEATS):
        rows = 4.0 + np.repeat(rng.normal(0, 0.3, documents), 4) + rng.normal(0, 0.2, 4 * documents)
        plain += contains(interval(Loss(), rows), 4.0)
        clustered += contains(interval(Loss(), rows, numbers), 4.0)
    assert abs(clustered / REPEATS - STATED) < SLACK + 0.01
    assert plain / REPEATS < 0.85


@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.7])
def test_documents_of_unequal_length_are_covered_too(correlation):
    """With a usual cluster-robust interval of 10 degrees of freedom this is 0.83 to 0.91."""
    rng, hits = np.random.default_rng(0), 0
    numbers = np.unique(DOCUMENTS, return_inverse=True)[1]
    for _ in range(REPEATS):
        of_document, of_window = ((rng.gamma(4.0, 1.0, n) - 4.0) / 2.0 for n in (numbers.max() + 1, len(numbers)))
        rows = math.sqrt(correlation) * of_document[numbers] + math.sqrt(1 - correlation) * of_window
        hits += contains(interval(Loss(), rows, DOCUMENTS), 0.0)
    assert STATED - 0.03 - SLACK < hits / REPEATS < STATED + 0.03


def contains(ends, value):
    return ends[0] <= value <= ends[1]


def test_packed_windows_are_clusters_of_their_own():
    rows = np.array([1.0, 2.0, 4.0, 3.0])
    assert interval(Loss(), rows, [-1, -1, -1, -1]) == pytest.approx(interval(Loss(), rows))
    assert interval(Loss(), rows, [3, 1, 2, 0]) == pytest.approx(interval(Loss(), rows))
    assert interval(Loss(), rows, [0, 0, 0, 0]) == (None, None)
    wide, narrow = interval(Loss(), rows, [0, 0, 1, 1]), interval(Loss(), rows)
    assert wide[0] < narrow[0]


def test_a_gap_in_perplexity_is_a_ratio_and_others_are_differences():
    one, other = np.array([1.1, 2.3, 3.1]), np.array([1.0, 2.0, 3.0])
    found = gap(Perplexity(), one, other)
    assert found.relative
    assert found.value == pytest.approx(math.exp(1 / 6) - 1)
    test = stats.ttest_rel(one, other).confidence_interval()
    assert (found.low, found.high) == pytest.approx((math.expm1(test.low), math.expm1(test.high)))
    plain = gap(Loss(), one, other)
    assert not plain.relative
    assert (plain.value, plain.low, plain.high) == pytest.approx((1 / 6, test.low, test.high))


def test_a_broken_plan_has_a_gap_without_an_interval():
    found = gap(Loss(), np.array([np.inf, 1.0]), np.array([1.0, 1.0]))
    assert (found.value, found.low, found.high) == (math.inf, None, None)
    assert gap(Loss(), np.array([np.nan, 1.0]), np.array([1.0, 1.0])).value == math.inf  # as NaN ranks last
    assert gap(Loss(), np.array([2.0, 1.0]), np.array([1.0, np.nan])).value == -math.inf
    assert math.isnan(gap(Perplexity(), np.array([np.nan, 1.0]), np.array([np.inf, 1.0])).value)
