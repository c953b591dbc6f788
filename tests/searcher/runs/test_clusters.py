"""Standard errors against those of the intervals that results show."""

import numpy as np
import pytest
from scipy import stats

from objectives.loss import Loss
from results.intervals import interval
from searcher.runs.clusters import PACKED, spread, standard_errors

DOCUMENTS = [None, [0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 1, 1, 5, 5, 9], [3, 3, 3, 3, 3, 3, PACKED, PACKED]]


@pytest.mark.parametrize("documents", DOCUMENTS)
def test_equal_those_of_the_intervals_that_results_show(documents):
    items = 10 + np.random.default_rng(0).normal(size=(3, 4, 8))  # losses, of which none is below 0
    errors, degrees = standard_errors(items, documents)
    for place in np.ndindex(3, 4):
        low, high = interval(Loss(), items[place], documents)
        assert errors[place] * stats.t.ppf(0.975, degrees) == pytest.approx((high - low) / 2)


def test_independent_windows_have_the_usual_error():
    items = np.random.default_rng(1).normal(size=(5, 20))
    errors, degrees = standard_errors(items)
    np.testing.assert_allclose(errors, stats.sem(items, axis=-1))
    assert degrees == pytest.approx(19)


@pytest.mark.parametrize(("windows", "documents"), [(1, None), (4, [2, 2, 2, 2])])
def test_one_document_tells_no_error(windows, documents):
    errors, degrees = standard_errors(np.ones((2, windows)), documents)
    assert np.isnan(errors).all()
    assert degrees == 0


def test_what_is_not_finite_has_no_error_and_spoils_no_other():
    items = np.random.default_rng(2).normal(size=(3, 6))
    expected = standard_errors(items)[0]
    items[1, 2], items[2, 0] = np.nan, np.inf
    errors, _ = standard_errors(items)
    assert errors[0] == expected[0]
    assert np.isnan(errors[1:]).all()


@pytest.mark.parametrize(
    ("documents", "count", "places"),
    [
        (range(6), 3, [1, 3, 5]),
        (range(32), 4, [4, 12, 20, 28]),
        ([0] * 30 + [1, 2], 4, [7, 22, 30, 31]),  # one of each, and what is left of the longest
        ([0, 0, 0, 0, 1, 1, 1, 1], 4, [1, 3, 5, 7]),
        ([0, 0, 1, 1, 2, 2, 3, 3], 2, [3, 7]),
        ([PACKED, PACKED, 5, 5], 3, [0, 1, 3]),
        ([0, 1], 8, [0, 1]),
        ([], 8, []),
        ([0, 1], 0, []),
    ],
)
def test_windows_are_spread_over_documents_and_within_them(documents, count, places):
    assert spread(documents, count) == places
