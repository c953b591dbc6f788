import dataclasses

import numpy as np
import pytest

from searcher.contracts.games import additive_game, make_space, play
from searcher.contracts.plan import Granularity, Part, PrunePlan, Unit
from searcher.errors import UsageError
from strategies.contiguous import Contiguous

MAPS = {"cosine": "state-cosines", "angular": "state-angles"}


def planted(metric, space, changes, default=0.9):
    """The space with a map that says how far apart these pairs of boundaries are."""
    boundaries = space.num_blocks + 1 if space.granularity is Granularity.BLOCK else 2 * space.num_blocks + 1
    change = np.full((boundaries, boundaries), default)
    for (before, after), value in changes.items():
        change[before, after] = value
    return dataclasses.replace(space, statistics={MAPS[metric]: 1 - change if metric == "cosine" else change})


@pytest.mark.parametrize("metric", ["cosine", "angular"])
def test_takes_the_span_whose_ends_are_nearest(metric):
    strategy = Contiguous(metric)
    assert strategy.statistics == (MAPS[metric],)
    space = planted(metric, make_space(6, 3), {(2, 5): 0.25, (1, 2): 0.0, (3, 6): 0.5})
    played = play(strategy, space, additive_game())
    assert [str(plan) for plan in played.plans] == ["2-4"]
    assert played.outcome.plans == played.plans
    assert played.outcome.notes == {"metric": metric, "spans": {"3": {"plan": "2-4", "value": 0.25}}}


@pytest.mark.parametrize("metric", ["cosine", "angular"])
def test_the_last_boundary_is_behind_the_last_block(metric):
    space = planted(metric, make_space(5, 2), {(3, 5): 0.0})
    assert str(play(Contiguous(metric), space, additive_game()).outcome.plans[0]) == "3-4"


def test_each_size_has_a_span_of_its_own():
    space = dataclasses.replace(make_space(6, 3), sizes=(1, 2, 3))
    space = planted("cosine", space, {(0, 3): 0.5, (4, 6): 0.25, (2, 3): 0.125})
    outcome = play(Contiguous(), space, additive_game()).outcome
    assert [str(plan) for plan in outcome.plans] == ["0-2", "4-5", "2"]
    assert {size: span["value"] for size, span in outcome.notes["spans"].items()} == {"3": 0.5, "2": 0.25, "1": 0.125}


def test_a_span_of_sublayers_may_begin_within_a_block():
    space = planted("cosine", make_space(3, 3, granularity=Granularity.SUBLAYER), {(1, 4): 0.0})
    assert str(play(Contiguous(), space, additive_game()).outcome.plans[0]) == "0.ffn,1"


@pytest.mark.parametrize(
    ("granularity", "expected"), [(Granularity.ATTENTION, "1.attn,2.attn"), (Granularity.FFN, "0.ffn,1.ffn")]
)
@pytest.mark.parametrize("metric", ["cosine", "angular"])
def test_of_attention_or_ffn_alone_what_each_unit_changes_is_summed(metric, granularity, expected):
    attention = {(0, 1): 0.5, (2, 3): 0.25, (4, 5): 0.125}
    ffn = {(1, 2): 0.0, (3, 4): 0.0, (5, 6): 0.75}
    ends = {(0, 3): 0.0, (3, 6): 0.0}  # of spans of attention or FFN: mean nothing
    space = planted(metric, make_space(3, 2, granularity=granularity), attention | ffn | ends)
    outcome = play(Contiguous(metric), space, additive_game()).outcome
    assert str(outcome.plans[0]) == expected
    assert outcome.notes["spans"]["2"]["value"] == (0.375 if granularity is Granularity.ATTENTION else 0.0)


def test_protected_units_split_spans():
    legal = tuple(Unit(block) for block in (0, 1, 3, 4, 5))  # 2 is protected
    space = dataclasses.replace(make_space(6, 3), units=legal)
    space = planted("cosine", space, {(0, 3): 0.0, (1, 4): 0.0, (2, 5): 0.0, (3, 6): 0.5})
    assert [str(plan) for plan in play(Contiguous(), space, additive_game()).plans] == ["3-5"]
    every = play(Contiguous("loss"), dataclasses.replace(space, sizes=(2,)), additive_game()).plans
    assert sorted(map(str, every)) == ["0-1", "3-4", "4-5"]


def test_a_quota_rules_spans_out():
    space = make_space(3, 3, granularity=Granularity.SUBLAYER)
    space = dataclasses.replace(space, most={Part.ATTENTION: 1})
    space = planted("cosine", space, {(0, 3): 0.0, (1, 4): 0.25, (2, 5): 0.0})  # attention of two blocks in both others
    assert str(play(Contiguous(), space, additive_game()).outcome.plans[0]) == "0.ffn,1"


@pytest.mark.parametrize("metric", ["cosine", "angular", "loss"])
def test_no_span_of_the_full_size_is_refused_before_anything_is_asked(metric):
    legal = tuple(Unit(block) for block in (0, 1, 3, 4))
    space = dataclasses.replace(make_space(5, 3, statistics=Contiguous(metric).statistics), units=legal)
    with pytest.raises(UsageError, match="No 3 consecutive units may be removed together"):
        next(Contiguous(metric).search(space))


def test_loss_measures_every_span_and_takes_the_best():
    game = additive_game(seed=2)
    space = dataclasses.replace(make_space(6, 3), sizes=(2, 3))
    played = play(Contiguous("loss"), space, game)
    assert sorted(map(str, played.plans)) == ["0-1", "0-2", "1-2", "1-3", "2-3", "2-4", "3-4", "3-5", "4-5"]
    for size in (2, 3):
        best = min((plan for plan in played.plans if plan.size(Granularity.BLOCK) == size), key=game)
        assert next(p for p in played.outcome.plans if p.size(Granularity.BLOCK) == size) == best
        assert played.outcome.notes["spans"][str(size)] == {"plan": str(best), "value": game(best)}


def test_loss_avoids_spans_that_break_the_model():
    def game(plan):
        return 1.0 if Unit(0) in plan.removed else np.inf

    assert str(play(Contiguous("loss"), make_space(5, 2), game).outcome.plans[0]) == "0-1"


def test_loss_cut_short_takes_the_best_of_the_deepest():
    game = additive_game(seed=2)
    space = dataclasses.replace(make_space(8, 2), fits=lambda plans, spare=0: len(plans) + spare <= 3)
    played = play(Contiguous("loss"), space, game, stop_at=1)
    assert [str(plan) for plan in played.asks[0].plans] == ["6-7", "5-6", "4-5"]
    assert played.outcome.plans[0] == min(played.asks[0].plans, key=game)


@pytest.mark.parametrize("metric", ["cosine", "angular", "loss"])
def test_stopped_at_any_ask_it_stands_for_a_span_of_the_full_size(metric):
    space = dataclasses.replace(make_space(6, 3, statistics=Contiguous(metric).statistics), sizes=(1, 3))
    for stop_at in range(len(play(Contiguous(metric), space, additive_game()).asks)):
        plan = play(Contiguous(metric), space, additive_game(), stop_at=stop_at).outcome.plans[0]
        first = plan.removed[0].block
        assert plan == PrunePlan.of(Unit(block) for block in range(first, first + 3))
