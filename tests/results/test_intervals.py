import math

import numpy as np
import pytest

from objectives.loss import Loss, Perplexity
from results.intervals import interval


@pytest.mark.parametrize("windows", [8, 32])
def test_covers_at_the_stated_rate(windows):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        low, high = interval(Loss(), rng.gamma(4.0, 1.0, windows))  # skewed, as losses are
        hits += low <= 4.0 <= high
    assert 0.92 <= hits / 2000 <= 0.965


def test_is_carried_over_to_perplexity():
    rows = np.array([3.0, 4.0, 5.0])
    low, high = interval(Loss(), rows)
    assert (low + high) / 2 == pytest.approx(4.0)
    assert interval(Perplexity(), rows) == (pytest.approx(math.exp(low)), pytest.approx(math.exp(high)))


@pytest.mark.parametrize("rows", [[1.0], [1.0, math.inf], [math.nan, 1.0]])
def test_there_is_none_where_it_cannot_be_told(rows):
    assert interval(Loss(), np.array(rows)) == (None, None)
