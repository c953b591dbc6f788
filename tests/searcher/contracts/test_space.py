import dataclasses
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.contracts.games import make_space
from searcher.contracts.plan import Granularity, Part, PrunePlan
from searcher.contracts.space import Need

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


def needing(space, least, cost=None):
    """A plan of the full size must remove units worth this much; by default an attention is worth 1, an FFN nothing."""
    cost = cost or {unit: float(unit.part is Part.ATTENTION) for unit in space.units}
    return dataclasses.replace(space, needs=(Need(cost, least),))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.integers(1, 5), st.integers(0, 4), st.none() | st.integers(0, 3), st.integers(0, 2))
def test_with_a_need_the_legal_plans_are_those_that_can_be_completed(num_blocks, size, least, attention, kinds):
    base = limited(num_blocks, size, attention)
    costs = {unit: float(unit.part is Part.ATTENTION) + (unit.block % 2) * kinds * 0.25 for unit in base.units}
    space = needing(base, least, costs)

    def saves(plan):
        return sum(costs[unit] for unit in plan.units(SUBLAYER)) >= least - 1e-9

    full = [set(plan.units(SUBLAYER)) for plan in base.plans(size) if saves(plan)]
    for count in range(size + 1):
        legal = {plan for plan in base.plans(count) if any(set(plan.units(SUBLAYER)) <= other for other in full)}
        assert set(space.plans(count)) == legal == set(brute_force(space, count))
        assert space.count(count) == len(legal)
        for plan in legal if count < size else ():
            longer = {p for p in base.extensions(plan) if any(set(p.units(SUBLAYER)) <= other for other in full)}
            assert set(space.extensions(plan)) == longer
            assert longer  # no dead ends


def test_samples_swaps_and_fillings_meet_the_need():
    space, rng = needing(make_space(6, 5, granularity=SUBLAYER), 3), np.random.default_rng(0)
    by_ffn = sorted(space.units, key=lambda unit: unit.part is Part.ATTENTION)
    for _ in range(100):
        plan = space.sample(rng)
        assert sum(unit.part is Part.ATTENTION for unit in plan.units(SUBLAYER)) >= 3
        assert space.allows(space.swapped(rng, plan, 3))
        assert space.allows(space.filled(space.sample(rng, 2), by_ffn))


def test_more_kinds_than_are_told_apart_still_meet_the_need():
    base = make_space(12, 4)
    costs = {unit: 1.0 + unit.block / 100 for unit in base.units}
    space = needing(base, 4.0, costs)
    assert all(sum(costs[unit] for unit in plan.units("block")) >= 4.0 for plan in space.plans(4))
    assert space.count(4) == 495


def saved(plan, savings, granularity=SUBLAYER):
    return sum(savings[unit] for unit in plan.units(granularity))


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_what_is_legal_is_what_can_be_completed_whatever_each_unit_saves(data):
    """Of units that all save another amount, of several things at once, with limits on both parts."""
    blocks = data.draw(st.integers(2, 4))
    limits = [data.draw(st.none() | st.integers(1, blocks)) for _ in range(2)]
    base = limited(blocks, 1, *limits)
    size = data.draw(st.integers(1, min(5, base.largest)))
    base = limited(blocks, size, *limits)
    amounts = st.lists(st.integers(0, 9), min_size=len(base.units), max_size=len(base.units))
    kinds = [
        dict(zip(base.units, map(float, data.draw(amounts)), strict=True)) for _ in range(data.draw(st.integers(1, 2)))
    ]
    best = [max(saved(plan, savings) for plan in base.plans(size)) for savings in kinds]
    shares = [data.draw(st.sampled_from([0.5, 0.8, 1.0])) for _ in kinds]
    needs = tuple(Need(s, b * share) for s, b, share in zip(kinds, best, shares, strict=True))
    listed = data.draw(st.booleans())
    space = dataclasses.replace(base, needs=needs)
    if not listed:
        vars(space._splits)["_listed"] = None  # so that the solver is asked
    full = [
        set(p.units(SUBLAYER)) for p in base.plans(size) if all(saved(p, n.savings) >= n.least - 1e-9 for n in needs)
    ]
    assert space.feasible == bool(full)
    for count in range(min(size + 1, base.largest) + 1):
        legal = [
            plan
            for plan in base.plans(count)
            if any(
                (set(plan.units(SUBLAYER)) <= one if count <= size else one <= set(plan.units(SUBLAYER)))
                for one in full
            )
        ]
        assert list(space.plans(count)) == legal == brute_force(space, count)
        assert space.count(count) == len(legal)
        assert space.removals(count).sum(axis=1).tolist() == [count] * len(legal)


def rare(num_blocks=16, size=10, least=0.999):
    """A space of 32 units that all save another amount, where next to no plan of 10 saves enough."""
    base = make_space(num_blocks, size, granularity=SUBLAYER)
    savings = {
        unit: float(n) for unit, n in zip(base.units, np.random.default_rng(0).integers(50, 500, 32), strict=True)
    }
    return needing(base, least * sum(sorted(savings.values())[-size:]), savings)


def ways_to_save(savings, size, least):
    """How many sets of so many of these whole numbers add up to this or more: by adding one number after another."""
    ways = np.zeros((size + 1, int(sum(savings)) + 1), dtype=np.int64)  # (numbers taken, their sum)
    ways[0, 0] = 1
    for saved in map(int, savings):
        ways[1:, saved:] += ways[:-1, : ways.shape[1] - saved].copy()
    return int(ways[size, int(np.ceil(least - 1e-6)) :].sum())


@pytest.mark.parametrize("least", [1.0, 0.999, 0.99, 0.98])
def test_few_legal_plans_among_very_many_are_counted_and_found(least):
    """Of C(32, 10), 64,512,240."""
    space, rng = rare(least=least), np.random.default_rng(0)
    found = list(space.plans(10))
    assert space.count(10) == len(found) == len(set(found))
    assert len(found) == ways_to_save(space.needs[0].savings.values(), 10, space.needs[0].least) < 500
    assert set(found) >= {space.sample(rng) for _ in range(20)}
    assert all(space.allows(space.swapped(rng, plan, 3)) for plan in found)


def test_where_legal_plans_are_too_many_to_be_counted_samples_are_legal():
    space, rng = rare(least=0.8), np.random.default_rng(0)
    assert space.count(10) == make_space(16, 10, granularity=SUBLAYER).count(10)
    samples = {space.sample(rng) for _ in range(20)}
    assert len(samples) == 20
    assert all(space.allows(plan) and space.size_of(plan) == 10 for plan in samples)


def test_what_is_left_of_a_plan_too_many_is_legal_too():
    space = needing(make_space(4, 3, granularity=SUBLAYER), 2)
    plan = PrunePlan.parse("0.attn,1.attn,2.ffn,3.ffn")
    assert set(map(str, space.reductions(plan))) == {"0.attn,1.attn,2.ffn", "0.attn,1.attn,3.ffn"}


def test_a_plan_too_many_must_hold_one_that_meets_the_need():
    space = needing(make_space(4, 3, granularity=SUBLAYER), 2)
    assert space.allows(PrunePlan.parse("0.attn,1.attn,2.ffn,3.ffn"))
    assert not space.allows(PrunePlan.parse("0.attn,1.ffn,2.ffn,3.ffn"))
