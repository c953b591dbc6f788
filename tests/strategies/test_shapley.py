"""Shapley values against their definition, on games small enough to enumerate."""

import dataclasses
import importlib.util
from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.contracts.games import additive_game, make_space, play
from searcher.contracts.plan import Granularity, Part, PrunePlan, Unit, all_units
from searcher.contracts.trie import layer_forwards, plan_path
from searcher.errors import UsageError
from strategies.shapley import Shapley
from strategies.shapley_chains import balanced_permutations
from strategies.shapley_estimators import CLASSES, Replay


def pairwise_game(seed, blocks):
    """Costs of blocks, and of pairs of blocks: no additive model explains it."""
    rng = np.random.default_rng(seed)
    alone, together = rng.uniform(0, 1, blocks), rng.normal(0, 1, (blocks, blocks))

    def score(plan):
        gone = [unit.block for unit in plan.removed]
        return float(alone[gone].sum() + sum(together[a, b] for a, b in combinations(gone, 2)))

    return score


def exact_values(game, units):
    """Shapley values by the definition, over all coalitions."""
    n, values = len(units), {}
    for unit in units:
        others = [u for u in units if u != unit]
        values[unit] = sum(
            factorial(k) * factorial(n - k - 1) / factorial(n)
            * (game(PrunePlan.of((*c, unit))) - game(PrunePlan.of(c)))
            for k in range(n)
            for c in combinations(others, k)
        )  # fmt: skip
    return values


def restricted_values(game, units, size):
    """Mean marginals over all chains of this length."""
    seen = {unit: [] for unit in units}
    for chain in permutations(units, size):
        for i, unit in enumerate(chain):
            seen[unit].append(game(PrunePlan.of(chain[: i + 1])) - game(PrunePlan.of(chain[:i])))
    return {unit: np.mean(marginals) for unit, marginals in seen.items()}


def estimate(strategy, game, blocks, size, seed=0):
    outcome = play(strategy, make_space(blocks, size, seed=seed), game).outcome
    return {Unit(int(name)): note for name, note in outcome.notes["units"].items()}


def test_full_values_are_efficient():
    """What all units cost together is shared out to the last bit, with any number of chains."""
    game = pairwise_game(0, 7)
    notes = estimate(Shapley(chains=4, full=True), game, 7, 3)
    everything = PrunePlan.of(all_units(7, Granularity.BLOCK))
    assert sum(note["value"] for note in notes.values()) == pytest.approx(game(everything) - game(PrunePlan()))


def test_antithetic_pairs_are_exact_for_pairwise_games():
    """A pair of a permutation and its reverse sees each pair of units in both orders."""
    game = pairwise_game(1, 6)
    notes = estimate(Shapley(chains=2, full=True), game, 6, 2)
    for unit, value in exact_values(game, all_units(6, Granularity.BLOCK)).items():
        assert notes[unit]["value"] == pytest.approx(value)


@pytest.mark.parametrize("size", [2, 3])
def test_restricted_values_converge_and_their_errors_are_honest(size):
    game, units = pairwise_game(2, 6), all_units(6, Granularity.BLOCK)
    exact = restricted_values(game, units, size)
    deviations = []
    for seed in range(30):
        for unit, note in estimate(Shapley(chains=24), game, 6, size, seed).items():
            deviations.append((note["value"] - exact[unit]) / note["standard_error"])
    assert abs(np.mean(deviations)) < 0.3  # no bias to speak of
    assert 0.5 < np.std(deviations) < 1.7  # the errors are about as large as they say


def test_the_order_of_an_additive_game_is_found():
    game = additive_game(seed=3)
    outcome = play(Shapley(chains=2, full=True), make_space(9, 4), game).outcome
    cheapest = sorted(all_units(9, Granularity.BLOCK), key=lambda unit: game(PrunePlan.of([unit])))[:4]
    assert outcome.plans[0] == PrunePlan.of(cheapest)
    assert outcome.notes["plan_by_value"] == str(PrunePlan.of(cheapest))


def test_a_unit_seen_fewer_than_twice_is_unknown_and_goes_last():
    outcome = play(Shapley(chains=2), make_space(12, 2), additive_game()).outcome
    notes = list(outcome.notes["units"].values())
    unknown = [note for note in notes if note["seen"] < 2]
    assert unknown
    assert all(note["value"] == "unknown" and note["standard_error"] is None for note in unknown)
    assert notes[-len(unknown) :] == unknown


@given(st.integers(1, 14), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_balanced_permutations(count, seed):
    units = all_units(count, Granularity.BLOCK)
    rows = balanced_permutations(units, np.random.default_rng(seed))
    assert all(sorted(row) == list(units) for row in rows)
    if count % 2 == 0:  # read both ways, every unit stands once at every position
        both = [*rows, *(row[::-1] for row in rows)]
        for position in range(count):
            assert sorted(row[position] for row in both) == list(units)


def test_only_as_many_chains_as_fit_the_limit():
    played = play(Shapley(), make_space(10, 3, most=16), additive_game())
    assert len(played.asks[0].plans) + 1 <= 16
    assert len(played.asks[0].plans) >= 8
    assert played.outcome.plans[0].size(Granularity.BLOCK) == 3


def test_chains_from_a_broken_model_teach_nothing():
    """Block 0 breaks the model; what is removed after it must not look free."""

    def game(plan):
        return np.inf if Unit(0) in plan.removed else additive_game()(plan)

    notes = estimate(Shapley(chains=32), game, 8, 3)
    assert notes[Unit(0)]["value"] == "inf"
    assert list(notes)[-1] == Unit(0)
    assert all(notes[Unit(i)]["value"] > 0 for i in range(1, 8))


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_of_whole_chains_shares_about_half(seed):
    """On 32 blocks, 8 removed: layer-forwards as a trie against one plan at a time."""
    asked = play(Shapley(), make_space(32, 8, seed=seed), additive_game()).asks[0].plans
    paths = [plan_path(plan, 32) for plan in asked]
    alone = sum(layer_forwards([path], (1, 0.5, 0.5, 0)) for path in paths)
    assert 1.9 < alone / layer_forwards(paths, (1, 0.5, 0.5, 0)) < 2.4


def trap_game(plan):
    """Blocks 0 and 1 are the cheapest alone, but stand in for each other: only one of them can go."""
    gone = {unit.block for unit in plan.removed}
    prices = dict(enumerate([0.1, 0.12, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]))
    return sum(prices[block] for block in gone) + (2.0 if gone >= {0, 1} else 0.0)


def test_adaptive_sees_what_a_removal_changes():
    """One-shot values are averages over all contexts, in most of which only one of the pair is gone."""
    once = play(Shapley(chains=56), make_space(8, 2), trap_game).outcome
    adaptive = play(Shapley(chains=56, adaptive=True), make_space(8, 2), trap_game).outcome
    assert once.notes["plan_by_value"] == "0-1"
    assert adaptive.notes["plan_by_value"] == "1-2"


def test_adaptive_equals_the_optimum_of_an_additive_game():
    game = additive_game(seed=6)
    outcome = play(Shapley(adaptive=True), make_space(9, 4), game).outcome
    cheapest = sorted(all_units(9, Granularity.BLOCK), key=lambda unit: game(PrunePlan.of([unit])))[:4]
    assert outcome.notes["plan_by_value"] == str(PrunePlan.of(cheapest))
    assert outcome.notes["values"] == "adaptive size-restricted Shapley"
    assert [Unit(int(name)) for name in list(outcome.notes["units"])[:4]] == cheapest


def test_adaptive_chains_begin_at_what_is_removed():
    played = play(Shapley(chains=4, adaptive=True), make_space(8, 3), additive_game())
    path = [Unit(int(name)) for name in list(played.outcome.notes["units"])[:3]]
    for done, ask in enumerate(played.asks[:3]):
        base = set(path[:done])
        assert all(base <= set(plan.removed) for plan in ask.plans)


def test_adaptive_shares_a_limit_among_its_rounds():
    played = play(Shapley(adaptive=True), make_space(12, 4, most=60), additive_game())
    assert len(played.asks) >= 4
    assert played.outcome.notes["plan_by_value"] == str(played.outcome.plans[0])


@pytest.mark.parametrize("stop_at", range(5))
def test_adaptive_stopped_in_any_round_fills_up(stop_at):
    outcome = play(Shapley(adaptive=True), make_space(7, 4), additive_game(), stop_at=stop_at).outcome
    assert outcome.plans[0].size(Granularity.BLOCK) == 4


def test_one_removal_is_known_from_one_look():
    """All chains of one removal begin at the same plan."""
    game = additive_game(seed=1)
    for unit, note in estimate(Shapley(), game, 6, 1).items():
        assert note == {"value": game(PrunePlan.of([unit])), "standard_error": None, "seen": 1}


@pytest.mark.parametrize("adaptive", [False, True])
def test_chains_respect_the_limits_of_a_free_mix(adaptive):
    space = make_space(5, 5, granularity=Granularity.SUBLAYER)
    space = dataclasses.replace(space, most={Part.ATTENTION: 2, Part.FFN: 3})
    played = play(Shapley(adaptive=adaptive), space, additive_game(seed=2))
    assert all(space.allows(plan) for plan in (*played.plans, *played.outcome.plans))
    prices = {unit: additive_game(seed=2)(PrunePlan.of([unit])) for unit in space.units}
    best = [sorted((u for u in space.units if u.part is part), key=prices.get)[:n] for part, n in space.most.items()]
    assert played.outcome.notes["plan_by_value"] == str(PrunePlan.of(best[0] + best[1]))


def test_a_range_of_sizes_has_a_plan_of_each():
    space = dataclasses.replace(make_space(8, 4), sizes=(2, 3, 4))
    game = additive_game(seed=3)
    plans = play(Shapley(), space, game).outcome.plans
    prices = sorted((game(PrunePlan.of([unit])), unit) for unit in space.units)
    for size in space.sizes:
        best = next(plan for plan in plans if plan.size(Granularity.BLOCK) == size)
        assert best == PrunePlan.of(unit for _, unit in prices[:size])
    assert plans[0].size(Granularity.BLOCK) == 4


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"adaptive": True, "full": True}, "Choose one"),
        ({"adaptive": True, "estimator": "svarm"}, "Leave out one"),
        ({"samples": 20}, "Use 'chains'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, complaint):
    with pytest.raises(UsageError, match=complaint):
        Shapley(**options)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    Shapley()
    with pytest.raises(UsageError, match=r'needs shapiq.*pip install "pruneplan\[shapiq\]"'):
        Shapley(estimator="svarm")


@pytest.mark.parametrize("options", [{"full": True}, {"estimator": "kernelshap"}])
def test_values_over_all_sets_are_refused_where_not_all_sets_are_legal(options):
    space = dataclasses.replace(make_space(4, 2, granularity=Granularity.SUBLAYER), most={Part.FFN: 1})
    with pytest.raises(UsageError, match="allow 5 of 8"):
        play(Shapley(**options), space, additive_game())


estimators = pytest.mark.parametrize("estimator", CLASSES)


@estimators
def test_estimators_of_shapiq_are_close_to_the_definition(estimator):
    pytest.importorskip("shapiq")
    game, units = pairwise_game(3, 5), all_units(5, Granularity.BLOCK)
    played = play(Shapley(estimator=estimator, samples=2000), make_space(5, 2), game)
    notes = played.outcome.notes
    assert notes["values"] == f"Shapley, by shapiq's {CLASSES[estimator]}"
    assert len(played.plans) == len(set(played.plans)) <= 2**5
    for unit, value in exact_values(game, units).items():
        assert notes["units"][str(unit)]["value"] == pytest.approx(value, abs=0.25)


@estimators
@pytest.mark.parametrize("blocks", [1, 2, 3, 12])
def test_estimators_of_shapiq_find_an_additive_order_from_the_samples_that_ours_takes(estimator, blocks):
    pytest.importorskip("shapiq")
    game, size = additive_game(seed=7), (blocks + 1) // 2
    played = play(Shapley(estimator=estimator), make_space(blocks, size), game)
    best = PrunePlan.of(sorted(all_units(blocks, Granularity.BLOCK), key=lambda u: game(PrunePlan.of([u])))[:size])
    if estimator != "svarm" or blocks < 12:  # SVARM compares different sets: noise even here
        assert played.outcome.notes["plan_by_value"] == str(best)
    assert played.outcome.plans[0].size(Granularity.BLOCK) == size


@pytest.mark.parametrize("samples", [14, 24, 64])
def test_kernelshap_is_efficient(samples):
    """What all units cost together is shared out, however few coalitions are seen."""
    pytest.importorskip("shapiq")
    game = pairwise_game(0, 6)
    notes = estimate(Shapley(estimator="kernelshap", samples=samples), game, 6, 2)
    everything = game(PrunePlan.of(all_units(6, Granularity.BLOCK)))
    assert sum(note["value"] for note in notes.values()) == pytest.approx(everything, abs=1e-3)


@estimators
def test_what_estimators_of_shapiq_ask_does_not_depend_on_the_answers(estimator):
    pytest.importorskip("shapiq")
    replay = Replay(make_space(7, 2, seed=3), estimator, 60)
    game = pairwise_game(1, 7)
    replay.values({plan: game(plan) for plan in replay.plans})  # a KeyError otherwise
    assert 16 <= len(replay.plans) <= 60
    assert PrunePlan() in replay.plans


@estimators
def test_estimators_of_shapiq_survive_plans_that_break_the_model(estimator):
    pytest.importorskip("shapiq")

    def game(plan):
        return np.inf if Unit(0) in plan.removed else additive_game()(plan)

    outcome = play(Shapley(estimator=estimator, samples=200), make_space(6, 2), game).outcome
    assert list(outcome.notes["units"])[-1] == "0"
    assert np.isfinite(game(outcome.plans[0]))


@estimators
def test_estimators_of_shapiq_take_only_as_many_samples_as_fit(estimator):
    pytest.importorskip("shapiq")
    played = play(Shapley(estimator=estimator, samples=200), make_space(8, 3, most=40), additive_game())
    assert 18 <= len(played.asks[0].plans) <= 39
    assert played.outcome.notes["values"].startswith("Shapley")
    assert played.outcome.plans[0].size(Granularity.BLOCK) == 3


def test_where_too_few_samples_fit_an_additive_fit_decides():
    pytest.importorskip("shapiq")
    strategy, space = Shapley(estimator="kernelshap"), make_space(8, 3)
    outcome = play(strategy, space, additive_game(), stop_at=0).outcome
    assert outcome.notes["values"] == "additive fit of the plans measured"
    assert outcome.plans[0].size(Granularity.BLOCK) == 3
    with pytest.raises(UsageError, match="Ask for 18 or more"):
        play(Shapley(estimator="kernelshap", samples=10), space, additive_game())
