"""Rounds of healing: what they cost at most, what a limit or a deadline leaves of them, and which plans go on."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searcher.contracts.cost import Cost, Prices
from searcher.contracts.ledger import Ledger, Limits
from searcher.contracts.plan import DENSE, PrunePlan
from searcher.contracts.tariff import Tariff
from searcher.search.halving import cost_of, first_of, half, in_turn, make_rounds
from searcher.search.shortlist import heal_shortlists

PLANS = {size: tuple(PrunePlan.parse(f"{i}-{i + size - 1}") for i in range(20)) for size in (1, 2, 3)}
counts = st.dictionaries(st.sampled_from([1, 2, 3]), st.integers(1, 20), min_size=1)


def dear(plan, share):
    """A price that is another for each plan, and for all twice that of half the steps."""
    work = share * (1 + (7 * sum(unit.block for unit in plan.removed)) % 5)
    return Cost(work, 3 * work, work)


class Loop:
    """What a search has found, of which it is known how each plan does healed: in each round as in `order`."""

    def __init__(self, limits=None, order=lambda split, plan: 0.0, until=None):
        tariff = Tariff(30, Prices((1.0, 0.6, 0.4, 0.0), 2.0), 4, 128, 1.0, 0.0, 1.0, 0.0)
        self.ledger = Ledger(tariff, limits or Limits())
        self.measured, self._until = [], until
        self.recorder = SimpleNamespace(
            measure=self._measure,
            known=SimpleNamespace(complete=lambda split, plan: (split, plan) in self.measured),
            executor=SimpleNamespace(layout={one.split: ["windows:0"] for one in make_rounds(7)}),
        )
        self.space = SimpleNamespace(size=3, num_windows=4, size_of=lambda plan: len(plan.removed))
        self.goals = SimpleNamespace(scores=lambda rows, windows, full: ([order(*rows)], None))

    def rows(self, plan, split):
        return split, plan

    def _measure(self, split, plans, deadline=None):
        for plan in plans:
            over = deadline is not None and self._until is not None and len(self.measured) >= self._until
            if (split, plan) not in self.measured and not over:
                self.measured.append((split, plan))

    def heal(self, lists, rounds, price=dear):
        told = []
        ends = heal_shortlists(self, lists, 20, make_rounds(rounds), price, 1e12, lambda one, plans: told.append(plans))
        return ends, told


@given(counts, st.integers(1, 5), st.floats(0, 200))
def test_whatever_goes_on_no_limit_is_passed_and_no_plan_more_would_fit(sizes, rounds, most):
    lists = {size: PLANS[size][:count] for size, count in sizes.items()}
    loop = Loop(
        Limits(max_evaluations=most or None), lambda split, plan: -dear(plan, 1.0).evaluations
    )  # dear ones go on
    ends, _ = loop.heal(lists, rounds)
    assert loop.ledger.charged.evaluations <= (most or float("inf")) + 1e-6
    begun = {plan for _, plan in loop.measured if plan != DENSE}
    together = sum(sizes.values())
    assert begun == set(list(in_turn(lists))[: len(begun)])
    assert ends.left_out == together - len(begun)
    if most and len(begun) < together:
        assert cost_of(first_of(lists, len(begun) + 1), make_rounds(rounds), dear).evaluations > most
    if begun:
        for size, healed in ends.healed.items():
            kept = len(begun & set(lists[size]))
            for _ in range(rounds - 1):
                kept = half(kept)
            assert len(healed) == kept
        assert ("healed-search", DENSE) in loop.measured
        assert sum(plan == DENSE for _, plan in loop.measured) == 1
    else:
        assert loop.measured == []


@given(counts, st.integers(1, 5))
def test_what_is_kept_back_is_no_less_than_what_is_charged(sizes, rounds):
    lists = {size: PLANS[size][:count] for size, count in sizes.items()}
    loop = Loop(order=lambda split, plan: dear(plan, 1.0).evaluations)
    loop.heal(lists, rounds)
    most, charged = cost_of(lists, make_rounds(rounds), dear), loop.ledger.charged
    assert charged.evaluations <= most.evaluations + 1e-6
    assert charged.layer_forwards <= most.layer_forwards + 1e-6
    if rounds == 1:
        assert charged == most


def test_the_better_half_goes_on_by_the_order_of_each_round():
    first, second = {"0": 3, "1": 1, "2": 2, "3": 4, "4": 0}, {"4": 9, "1": 5, "2": 1}

    def order(split, plan):
        return float({"healed-search-1/4": first, "healed-search-1/2": second}.get(split, first)[str(plan)])

    ends, told = Loop(order=order).heal({1: PLANS[1][:5]}, 3)
    assert [list(map(str, end.healed[1])) for end in ends.rounds] == [
        ["4", "1", "2", "0", "3"],
        ["2", "1", "4"],
        ["1", "2"],
    ]
    assert [list(map(str, end.dropped.get(1, ()))) for end in ends.rounds] == [["0", "3"], ["4"], []]
    assert told[-1] == (DENSE, *map(PrunePlan.parse, ("2", "1")))
    assert ends.left_out == 0


@pytest.mark.parametrize(("until", "healed"), [(0, "0"), (2, "1"), (8, "7"), (10, "7")])
def test_after_the_deadline_only_the_control_and_the_best_so_far_are_healed_in_full(until, healed):
    """Eight plans, of which later ones do better; the deadline comes after so many were measured."""
    loop = Loop(order=lambda split, plan: -plan.removed[0].block, until=until)
    ends, _ = loop.heal({1: PLANS[1][:8]}, 3)
    assert ends.healed == {1: (PrunePlan.parse(healed),)}
    assert loop.measured[until:] == [("healed-search", DENSE), ("healed-search", PrunePlan.parse(healed))]
    dropped = sum(len(plans) for end in ends.rounds for plans in end.dropped.values())
    assert ends.left_out == 8 - 1 - dropped


def test_a_healing_that_does_not_tell_its_price_is_not_charged():
    loop = Loop(Limits(max_evaluations=1.0))
    ends, _ = loop.heal({1: PLANS[1][:4]}, 2, price=lambda plan, share: None)
    assert len(ends.healed[1]) == 2
    assert loop.ledger.parts == {}
