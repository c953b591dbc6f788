import dataclasses
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searcher.games import make_space
from searcher.plan import Granularity, Part, PrunePlan

SUBLAYER = Granularity.SUBLAYER


def limited(num_blocks, size, attention=None, ffn=None):
    most = {part: n for part, n in ((Part.ATTENTION, attention), (Part.FFN, ffn)) if n is not None}
    return dataclasses.replace(make_space(num_blocks, size, granularity=SUBLAYER), most=most)


def brute_force(space, size):
    plans = (PrunePlan.of(units) for units in combinations(space.units, size))
    return [plan for plan in plans if space.allows(plan)]


@given(st.integers(1, 4), st.integers(0, 8), st.none() | st.integers(0, 4), st.none() | st.integers(0, 4))
def test_counting_and_listing_plans(num_blocks, size, attention, ffn):
    space = limited(num_blocks, size, attention, ffn)
    plans = list(space.plans(size))
    assert plans == brute_force(space, size)
    assert space.count(size) == len(plans) == len(set(plans))
    assert (size <= space.largest) == bool(plans)


@pytest.mark.parametrize(("attention", "ffn"), [(None, None), (1, None), (2, 1), (0, 3)])
def test_samples_are_uniform_among_legal_plans(attention, ffn):
    space, rng = limited(4, 3, attention, ffn), np.random.default_rng(0)
    plans = brute_force(space, 3)
    counts = Counter(space.sample(rng) for _ in range(200 * len(plans)))
    assert set(counts) == set(plans)
    assert 130 < min(counts.values()) <= max(counts.values()) < 280  # 200 expected, standard deviation 14


@given(st.integers(0, 100), st.none() | st.integers(1, 3), st.none() | st.integers(1, 3), st.integers(1, 3))
def test_moves_stay_legal_and_keep_the_size(seed, attention, ffn, count):
    space, rng = limited(4, 2, attention, ffn), np.random.default_rng(seed)
    plan = space.sample(rng)
    swaps = list(space.swaps(plan))
    legal = {other for other in brute_force(space, 2) if len({*other.units(SUBLAYER)} - {*plan.units(SUBLAYER)}) == 1}
    assert set(swaps) == legal
    assert len(swaps) == len(legal)
    assert space.size_of(space.swapped(rng, plan, count)) == 2
    assert space.allows(space.swapped(rng, plan, count))
    assert set(space.extensions(plan)) == {
        p for p in brute_force(space, 3) if set(plan.units(SUBLAYER)) < {*p.units(SUBLAYER)}
    }
    assert all(space.size_of(smaller) == 1 for smaller in space.reductions(plan))


def test_filling_up_passes_over_what_is_not_legal():
    space = limited(3, 4, attention=1)
    assert str(space.filled(PrunePlan(), space.units)) == "0,1.ffn,2.ffn"


def test_a_swap_replaces_as_many_units_as_it_says():
    space, rng = make_space(12, 5), np.random.default_rng(0)
    plan = space.sample(rng)
    for count in (1, 2, 5):
        other = space.swapped(rng, plan, count)
        assert len({*plan.removed} - {*other.removed}) == count
