import dataclasses
from typing import ClassVar

import numpy as np
import pytest

from searcher.contracts.games import additive_game, make_space, play
from searcher.contracts.plan import Granularity, Part, PrunePlan, Unit, all_units
from searcher.testing import StrategyContract
from strategies.influence import Influence

STATISTICS = ("relative-l1", "relative-l2", "logits", "taylor", "magnitude")
"""Those that are the influence itself."""


class TestByLoss(StrategyContract):
    """In an additive game, what each unit costs alone is all there is to know."""

    name = "influence"
    options: ClassVar = {"metric": "loss"}


def planted(metric, influence, **options):
    """A space in which the statistic behind a metric says this."""
    space = make_space(len(influence), 2, **options)
    numbers = 1 - np.array(influence) if metric == "cosine" else np.array(influence)
    return dataclasses.replace(space, statistics={metric: numbers})


@pytest.mark.parametrize("metric", ["cosine", *STATISTICS])
def test_removes_the_units_of_lowest_influence(metric):
    strategy = Influence(metric)
    assert strategy.statistics == (metric,)
    played = play(strategy, planted(metric, [0.5, 0.125, 0.75, 0.0, 0.25]), additive_game())
    assert [str(plan) for plan in played.plans] == ["1,3"]
    assert played.outcome.plans[0] == played.plans[0]
    assert played.outcome.notes["metric"] == metric
    assert list(played.outcome.notes["influence"].items()) == [
        ("3", 0),
        ("1", 0.125),
        ("4", 0.25),
        ("0", 0.5),
        ("2", 0.75),
    ]


def test_one_plan_of_each_size_all_of_one_order():
    space = dataclasses.replace(planted("taylor", [5.0, 1.0, 4.0, 2.0, 3.0]), sizes=(1, 2, 4))
    played = play(Influence("taylor"), space, additive_game())
    assert [str(plan) for plan in played.plans] == ["1-4", "1,3", "1"]
    assert played.outcome.plans == played.plans


def test_ties_go_to_the_first_unit_and_nan_is_the_highest_influence():
    space = dataclasses.replace(planted("logits", [np.nan, 1.0, 1.0, 1.0]), sizes=(1, 2))
    played = play(Influence("logits"), space, additive_game())
    assert [str(plan) for plan in played.plans] == ["1-2", "1"]
    assert played.outcome.plans == played.plans
    assert played.outcome.notes["influence"] == {"1": 1, "2": 1, "3": 1, "0": None}


def test_a_quota_is_kept():
    """The two attentions are the cheapest, but only one may go."""
    space = make_space(2, 2, granularity=Granularity.SUBLAYER)  # 0.attn, 0.ffn, 1.attn, 1.ffn
    space = dataclasses.replace(space, statistics={"taylor": np.array([1.0, 4.0, 2.0, 3.0])}, most={Part.ATTENTION: 1})
    assert str(play(Influence("taylor"), space, additive_game()).outcome.plans[0]) == "0.attn,1.ffn"


def test_statistics_belong_to_the_legal_units():
    space = dataclasses.replace(
        make_space(5, 2),
        units=tuple(Unit(block) for block in (1, 2, 4)),
        statistics={"taylor": np.array([3.0, 2.0, 1.0])},
    )
    assert str(play(Influence("taylor"), space, additive_game()).outcome.plans[0]) == "2,4"


def test_loss_measures_every_removal_alone_first():
    game = additive_game(seed=3)
    played = play(Influence("loss"), make_space(7, 3), game)
    singles = [PrunePlan.of([unit]) for unit in all_units(7, Granularity.BLOCK)]
    assert list(played.asks[0].plans) == singles
    cheapest = sorted(singles, key=game)[:3]
    assert played.outcome.plans[0] == PrunePlan.of(unit for plan in cheapest for unit in plan.removed)
    assert played.outcome.notes["influence"] == {str(plan): game(plan) for plan in singles}


def test_loss_of_a_sublayer_measured_alone_decides_though_together_they_are_dear():
    """One-shot: it does not see that both of the cheapest together break the model."""

    def game(plan):
        gone = plan.units(Granularity.BLOCK)
        return np.inf if len(gone) == 2 else 0.1 * gone[0].block

    played = play(Influence("loss"), make_space(4, 2), game)
    assert str(played.outcome.plans[0]) == "0-1"


def test_loss_avoids_units_that_break_the_model():
    def game(plan):
        return np.inf if Unit(0) in plan.removed else 1.0

    played = play(Influence("loss"), make_space(4, 3), game)
    assert str(played.outcome.plans[0]) == "1-3"
    assert played.outcome.notes["influence"]["0"] is None


def test_a_unit_that_breaks_the_model_stands_behind_those_not_tried():
    def game(plan):
        return np.inf if Unit(0) in plan.removed else 1.0

    space = dataclasses.replace(make_space(4, 2), fits=lambda plans, spare=0: len(plans) + spare <= 2)
    played = play(Influence("loss"), space, game, stop_at=1)
    assert [str(plan) for plan in played.asks[0].plans] == ["0"]
    assert str(played.outcome.plans[0]) == "1-2"


def test_loss_cut_short_goes_by_what_was_tried():
    """A limit of five plans: four units, and the plan of full size that is kept back for."""
    game = additive_game(seed=1)
    space = dataclasses.replace(make_space(8, 2), fits=lambda plans, spare=0: len(plans) + spare <= 5)
    played = play(Influence("loss"), space, game, stop_at=1)
    tried = sorted((Unit(block) for block in range(4)), key=lambda unit: game(PrunePlan.of([unit])))
    assert played.outcome.plans[0] == PrunePlan.of(tried[:2])
    assert list(played.outcome.notes["influence"])[4:] == ["4", "5", "6", "7"]


def test_reverse_takes_the_last_block_last():
    strategy = Influence("reverse")
    assert strategy.statistics == ()
    space = dataclasses.replace(make_space(4, 4), sizes=(1, 3, 4))
    assert [str(plan) for plan in play(strategy, space, additive_game()).plans] == ["0-3", "0-2", "2"]


def test_reverse_with_sublayers_begins_at_the_ffn_of_the_last_but_one():
    space = dataclasses.replace(make_space(3, 5, granularity=Granularity.SUBLAYER), sizes=(1, 2, 3, 5))
    plans = play(Influence("reverse"), space, additive_game()).plans
    assert [str(plan) for plan in plans] == ["0-1,2.ffn", "0.ffn,1", "1", "1.ffn"]


@pytest.mark.parametrize("metric", ["cosine", "loss", "reverse", *STATISTICS])
def test_stopped_at_any_ask_it_stands_for_a_plan_of_the_full_size(metric):
    space = dataclasses.replace(make_space(6, 3, statistics=Influence(metric).statistics), sizes=(1, 3))
    for stop_at in range(len(play(Influence(metric), space, additive_game()).asks)):
        outcome = play(Influence(metric), space, additive_game(), stop_at=stop_at).outcome
        assert [plan.size(Granularity.BLOCK) for plan in outcome.plans[:2]] == [3, 1]
