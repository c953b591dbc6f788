"""Shapley values against their definition, on games small enough to enumerate."""

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.plan import Granularity, PrunePlan, Unit, all_units
from searcher.testing import additive_game, make_space, play
from searcher.trie import layer_forwards, path_of
from strategies.shapley import Shapley, _balanced_permutations


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
    rows = _balanced_permutations(units, np.random.default_rng(seed))
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
    paths = [path_of(plan.actions(32)) for plan in asked]
    alone = sum(layer_forwards([path], (1, 0.5, 0.5, 0)) for path in paths)
    assert 1.9 < alone / layer_forwards(paths, (1, 0.5, 0.5, 0)) < 2.4
