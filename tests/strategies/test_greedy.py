import numpy as np
import pytest

from searcher.contracts.games import additive_game, make_space, play
from searcher.contracts.plan import Granularity, PrunePlan, Unit
from strategies.greedy import Greedy
from strategies.random import Random


def test_takes_the_cheapest_unit_in_every_round():
    game = additive_game(seed=4)
    played = play(Greedy(), make_space(9, 4), game)
    plan = PrunePlan()
    for ask, step in zip(played.asks, played.outcome.notes["steps"], strict=True):
        assert set(ask.plans) == {plan.remove(Unit(b)) for b in range(9) if Unit(b) not in plan.removed}
        plan = min(ask.plans, key=game)
        assert step == {"plan": str(plan), "score": game(plan)}
    assert played.outcome.plans[0] == plan


def test_is_trapped_where_a_worse_first_step_leads_to_a_better_plan():
    """Blocks 1 and 2 are free together but dear alone."""

    def game(plan):
        gone = {unit.block for unit in plan.removed}
        return 0.0 if gone == {1, 2} else len(gone) + (0.5 if gone & {1, 2} else 0.0)

    assert str(play(Greedy(), make_space(5, 2), game).outcome.plans[0]) == "0,3"


def test_ties_go_to_the_first_plan():
    assert str(play(Greedy(), make_space(5, 2), lambda _: 1.0).outcome.plans[0]) == "0-1"


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_stopped_early_it_fills_up_by_the_last_round(stop_at):
    game = additive_game(seed=5)
    plan = play(Greedy(), make_space(8, 4), game, stop_at=stop_at).outcome.plans[0]
    assert plan.size(Granularity.BLOCK) == 4
    if stop_at:  # after one round an additive game is known
        cheapest = sorted(range(8), key=lambda b: game(PrunePlan.of([Unit(b)])))[:4]
        assert plan == PrunePlan.of(Unit(b) for b in cheapest)


def test_random_plans_are_distinct_uniform_and_as_many_as_asked():
    plans = play(Random(samples=200), make_space(12, 3), additive_game()).plans
    assert len(plans) == len(set(plans)) == 200
    counts = np.bincount([unit.block for plan in plans for unit in plan.removed], minlength=12)
    assert counts.sum() == 600
    assert counts.min() > 25  # 50 expected


def test_random_ends_when_there_are_no_more_plans():
    assert len(play(Random(samples=50), make_space(4, 2), additive_game()).plans) == 6
