"""Rank correlation against scipy, and how often its interval covers the truth."""

import numpy as np
import pytest
from scipy import stats

from searcher.anatomy.correlation import correlate


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [2, 5, 30])
def test_equals_scipy(count, ties):
    rng = np.random.default_rng(count)
    one, other = rng.normal(size=(2, count))
    if ties:
        one, other = np.round(one), np.round(other * 2)
    expected = stats.spearmanr(one, other).statistic
    found = correlate(one, other)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.count == count


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, linear, covered = np.random.default_rng(0), 0.7, 0
    true = 6 / np.pi * np.arcsin(linear / 2)  # Spearman's, of normal numbers of this correlation
    for _ in range(600):
        one, noise = rng.normal(size=(2, 30))
        found = correlate(one, linear * one + np.sqrt(1 - linear**2) * noise)
        covered += found.low <= true <= found.high
    assert 0.92 < covered / 600 < 0.98


def test_few_units_and_perfect_order_have_no_interval():
    rising = np.arange(6.0)
    assert correlate(rising[:3], np.array([1.0, 3, 2])).low is None
    assert correlate(rising, np.exp(rising)) == correlate(rising, rising)
    assert correlate(rising, -rising).value == pytest.approx(-1)
    assert correlate(rising, -rising).high is None
    assert correlate(rising[:4], np.array([1.0, 0, 3, 2])).low < 0


def test_all_the_same_has_no_correlation():
    assert correlate(np.ones(5), np.arange(5.0)).value is None


def test_what_breaks_the_model_ranks_last():
    broken = np.array([1.0, 2, np.nan, 3, np.inf])
    assert correlate(broken, np.array([1.0, 2, 9, 3, 9])).value == pytest.approx(1)
