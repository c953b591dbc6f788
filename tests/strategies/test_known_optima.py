"""Strategies against spaces small enough that the best plan is known: synthetic games, and trained models."""

from functools import cache

import numpy as np
import pytest
from trained import enumerated

from searcher.contracts.games import interacting_game, make_space, play
from searcher.contracts.plan import Granularity
from strategies.bayesian import Bayesian
from strategies.beam import Beam
from strategies.evolutionary import Evolutionary
from strategies.exhaustive import Exhaustive
from strategies.greedy import Greedy
from strategies.interactions import Interactions
from strategies.local import Local
from strategies.oscillating import Oscillating
from strategies.portfolio import Portfolio

BLOCK, SUBLAYER = Granularity.BLOCK, Granularity.SUBLAYER
STRENGTH = 0.1
"""Of the interactions: greedy misses the optimum of nearly every second game."""
SYNTHETIC = [
    *[(granularity, 12, 6, seed) for granularity in (BLOCK, SUBLAYER) for seed in range(6)],
    *[(BLOCK, 16, 6, 0), (BLOCK, 16, 8, 1), (SUBLAYER, 16, 6, 1), (SUBLAYER, 16, 7, 0)],
]
"""Granularity, units, removed, seed."""
TRAINED = [(granularity, 12, 6, seed) for granularity in (BLOCK, SUBLAYER) for seed in (1, 2, 3)]
LARGER = [(BLOCK, 16, 6, 0), (BLOCK, 16, 8, 1), (SUBLAYER, 16, 7, 0), (SUBLAYER, 16, 8, 1)]


def most(space):
    """Evaluations allowed: a fifth of all plans of 12 units, a tenth of those of 16."""
    return space.count(space.size) * (0.2 if len(space.units) == 12 else 0.1)


def strategies(units):
    """Each with the options that use up what is allowed."""
    return {
        "bayesian": Bayesian(batch=12),
        "interactions": Interactions(),
        "evolutionary": Evolutionary(generations=1000),
        "local": Local(repeats=40),
        "beam": Beam(width=4 if units == 12 else 12),
        "portfolio": Portfolio(),
        "oscillating": Oscillating(swing=units),
    }


@cache
def synthetic(granularity, units, size, seed):
    """A game, its space and its optimum."""
    num_blocks = units if granularity is BLOCK else units // 2
    game = cache(interacting_game(seed, num_blocks, STRENGTH))
    space = make_space(num_blocks, size, granularity=granularity, seed=seed, statistics=Portfolio().statistics)
    return game, space, optimum(space, game)


@cache
def trained(granularity, units, size, seed):
    """The same of a trained model."""
    game = enumerated(granularity, units, size, seed)
    return game, game.space, optimum(game.space, game)


def score(game, plan):
    return float(np.mean(game(plan)))


def optimum(space, game):
    """By a search of our own through all plans, and by the strategy that certifies it."""
    best = min(space.plans(space.size), key=lambda plan: (score(game, plan), plan))
    outcome = play(Exhaustive(), space, game).outcome
    assert outcome.plans[0] == best
    certificate = outcome.notes["certificates"][str(space.size)]
    assert certificate["complete"]
    assert certificate["plans"] == certificate["measured"] == space.count(space.size)
    return best


def reaches(name, game, space, best):
    """Whether the best plan that a strategy measures within what is allowed is the optimum."""
    played = play(strategies(len(space.units))[name], space, game, max_evaluations=most(space))
    assert played.evaluations(space) <= most(space)
    in_full = {plan for ask in played.asks if ask.windows is None for plan in ask.plans}
    return min(score(game, plan) for plan in in_full if space.size_of(plan) == space.size) <= score(game, best) + 1e-12


def greedy_misses(game, space, best):
    """And the certificate of the optimum proves it."""
    return score(game, play(Greedy(), space, game).outcome.plans[0]) > score(game, best) + 1e-9


LONG = {"bayesian", "beam", "evolutionary", "interactions", "local", "portfolio"}
"""Strategies that take seconds more than others: among the slow tests, the cases here are among theirs."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in strategies(12)]
)
def test_the_optimum_is_reached(name):
    reached = [reaches(name, *synthetic(*case)) for case in SYNTHETIC]
    reached += [reaches(name, *trained(*case)) for case in TRAINED]
    assert np.mean(reached) >= 0.9, f"{name} reached {sum(reached)} of {len(reached)}"


@pytest.mark.parametrize("name", sorted(LONG))
def test_the_optimum_of_a_few_games_is_reached(name):
    reached = [reaches(name, *synthetic(*case)) for case in SYNTHETIC[4:8]]
    assert np.mean(reached) >= 0.75, f"{name} reached {sum(reached)} of {len(reached)}"


@pytest.mark.slow
@pytest.mark.parametrize("name", strategies(12))
def test_the_optimum_is_reached_with_larger_trained_models_among_the_cases(name):
    reached = [reaches(name, *synthetic(*case)) for case in SYNTHETIC]
    reached += [reaches(name, *trained(*case)) for case in (*TRAINED, *LARGER)]
    assert np.mean(reached) >= 0.9, f"{name} reached {sum(reached)} of {len(reached)}"


def test_greedy_misses_the_optimum_of_many_synthetic_games():
    missed = [greedy_misses(*synthetic(*case)) for case in SYNTHETIC]
    assert 0.3 < np.mean(missed) < 0.9


@pytest.mark.parametrize(("case", "gap"), [((SUBLAYER, 12, 6, 2), 0.16), ((BLOCK, 16, 8, 1), 0.02)])
def test_greedy_misses_the_optimum_of_a_trained_model(case, gap):
    """Six of twelve sublayers, eight of sixteen blocks: all plans are known, and one beats greedy's by 0.166 nats, or
    0.025."""
    game, space, best = trained(*case)
    assert greedy_misses(game, space, best)
    assert score(game, play(Greedy(), space, game).outcome.plans[0]) - score(game, best) > gap
