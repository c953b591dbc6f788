"""Two plans on the same items, each right or wrong: the exact test, and an interval that agrees with it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from objectives.accuracy import Accuracy
from objectives.stability import Stability
from results.intervals import gap

ACCURACY = Accuracy("items.jsonl")


def answers(won, lost, both, neither=0):
    """Items of a plan and of another: those that only the one has right, only the other, both, and neither."""
    one = np.repeat([1.0, 0.0, 1.0, 0.0], [won, lost, both, neither])
    other = np.repeat([0.0, 1.0, 1.0, 0.0], [won, lost, both, neither])
    return one, other


COUNTS = st.integers(0, 25)


@settings(deadline=None)
@given(won=COUNTS, lost=COUNTS, both=COUNTS, neither=COUNTS)
def test_p_is_that_of_the_items_that_differ_whatever_the_others_are(won, lost, both, neither):
    items = won + lost + both + neither
    if items < 2:
        return
    found = gap(ACCURACY, *answers(won, lost, both, neither))
    fair = stats.binom(won + lost, 0.5)
    assert found.value == pytest.approx((won - lost) / items)
    assert found.p == pytest.approx(min(1.0, 2 * fair.cdf(min(won, lost))))
    back = gap(ACCURACY, *reversed(answers(won, lost, both, neither)))
    assert (back.low, back.high, back.p) == (pytest.approx(-found.high), pytest.approx(-found.low), found.p)


@pytest.mark.parametrize("items", [8, 30, 100])
def test_the_interval_leaves_out_zero_exactly_where_the_test_tells_the_plans_apart(items):
    for won in range(0, items + 1, 1 if items < 100 else 3):
        for lost in range(0, min(won, items - won) + 1, 1 if items < 100 else 2):
            found = gap(ACCURACY, *answers(won, lost, items - won - lost))
            assert (found.low > 0) == (found.p <= 0.05), (won, lost)
            assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("items", "won", "lost"), [(20, 0.3, 0.3), (20, 0.3, 0.05), (40, 0.1, 0.1), (40, 0.25, 0.0), (60, 0.05, 0.02)]
)
def test_covers_at_the_stated_rate(items, won, lost):
    """Every outcome there can be, weighted by its chance: no simulation is needed."""
    covered = wrong = 0.0
    for b in range(items + 1):
        for c in range(items - b + 1):
            chance = stats.multinomial.pmf([b, c, items - b - c], items, [won, lost, 1 - won - lost])
            if chance < 1e-7:
                continue
            found = gap(ACCURACY, *answers(b, c, items - b - c))
            covered += chance * (found.low - 1e-12 <= won - lost <= found.high + 1e-12)
            wrong += chance * (found.p <= 0.05)
    assert covered > 0.94
    if won == lost:
        assert wrong <= 0.05  # exact: never more than stated


def test_items_that_share_documents_or_do_not_count_alike_are_not_tested_so():
    one, other = answers(8, 1, 11)
    assert gap(ACCURACY, one, other).p == pytest.approx(stats.binomtest(8, 9).pvalue)
    assert gap(ACCURACY, one, other, [0, 1] * 10).p is None
    assert gap(Stability("items.jsonl"), np.array([2.0, -1.5, 1.2]), np.array([2.0, 1.5, -1.2])).p is None
