"""Synthetic games, where a plan's score is a formula, and playing a search against them without a model."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searcher.cost import Ledger, Limits, Prices, Tariff
from searcher.plan import Granularity, PrunePlan, all_units
from searcher.space import Space
from searcher.statistics import shape_of
from searcher.strategy import Ask, Outcome, Scores, SearchStopped, Strategy

Game = Callable[[PrunePlan], float]
"""A plan's score, the same on every window; lower is better."""

WindowGame = Callable[[PrunePlan], NDArray[np.float64]]
"""A plan's scores, float64 (windows,); lower is better."""

NUM_WINDOWS = 4
FREE = Prices((0.0, 0.0, 0.0, 0.0), 0.0)
"""In a game only evaluations are counted."""


def additive_game(seed: int = 0, num_blocks: int = 64) -> Game:
    """Every sublayer has a price of its own, whatever else is removed: the best plan removes the cheapest units."""
    prices = np.random.default_rng(seed).uniform(0.1, 1.0, size=(num_blocks, 2))

    def score(plan: PrunePlan) -> float:
        sublayers = plan.units(Granularity.SUBLAYER)
        return float(sum(prices[unit.block, 0 if unit.part == "attn" else 1] for unit in sublayers))

    return score


def interacting_game(seed: int = 0, num_blocks: int = 12, strength: float = 0.3) -> Game:
    """An additive game in which, besides, every pair of sublayers and some triples are dearer or cheaper together.

    Args:
        seed: of its prices.
        num_blocks: how many blocks it knows.
        strength: standard deviation of what a pair adds, half of what a triple adds; a sublayer alone costs 0.1 to 1.
    """
    rng, count = np.random.default_rng(seed), 2 * num_blocks
    prices, pairs = rng.uniform(0.1, 1.0, count), np.triu(rng.normal(0.0, strength, (count, count)), 1)
    triples = [rng.choice(count, 3, replace=False).tolist() for _ in range(count)]
    added = rng.normal(0.0, 2 * strength, count)

    def score(plan: PrunePlan) -> float:
        gone = [2 * unit.block + (unit.part == "ffn") for unit in plan.units(Granularity.SUBLAYER)]
        together = sum(added[i] for i, triple in enumerate(triples) if set(gone).issuperset(triple))
        return float(prices[gone].sum() + pairs[np.ix_(gone, gone)].sum() + together)

    return score


def noisy_game(game: Game, seed: int, num_windows: int, noise: float) -> WindowGame:
    """The game with normal noise of this standard deviation on every window; the mean over all windows stays."""

    def score(plan: PrunePlan) -> NDArray[np.float64]:
        key = [seed, *(2 * unit.block + (unit.part == "ffn") for unit in plan.units(Granularity.SUBLAYER))]
        drawn = np.random.default_rng(key).normal(0, noise, num_windows)
        return np.asarray(game(plan) + drawn - drawn.mean(), dtype=np.float64)

    return score


def make_space(
    num_blocks: int,
    size: int,
    *,
    granularity: Granularity = Granularity.BLOCK,
    seed: int = 0,
    most: float = np.inf,
    statistics: Sequence[str] = (),
    num_windows: int = NUM_WINDOWS,
    racing: float | None = None,
) -> Space:
    """A space without protected units, in which batches of at most `most` plans fit; its statistics are made up."""
    units = all_units(num_blocks, granularity)
    shapes = {name: shape_of(name, units, num_blocks) for name in statistics}
    return Space(
        num_blocks=num_blocks,
        granularity=granularity,
        units=units,
        sizes=(size,),
        num_windows=num_windows,
        seed=seed,
        fits=lambda plans, spare=0: len(plans) + spare <= most,
        statistics={name: np.random.default_rng(0).uniform(0.1, 0.9, shape) for name, shape in shapes.items()},
        racing=racing,
    )


@dataclass(frozen=True)
class Played:
    """A search that was played: what was asked, in order, and what came out."""

    asks: tuple[Ask, ...]
    outcome: Outcome | None

    @property
    def plans(self) -> tuple[PrunePlan, ...]:
        """Every plan asked for, in order."""
        return tuple(plan for ask in self.asks for plan in ask.plans)

    def evaluations(self, space: Space) -> float:
        """What it was charged: each distinct plan and window once, in plans measured on all windows."""
        every = range(space.num_windows)
        pairs = {(plan, w) for ask in self.asks for plan in ask.plans for w in (ask.windows or every)}
        return len(pairs) / space.num_windows


def play(
    strategy: Strategy,
    space: Space,
    game: Game | WindowGame,
    *,
    stop_at: int | None = None,
    max_evaluations: float | None = None,
) -> Played:
    """Play a search against a game, without a model.

    Args:
        strategy: the player.
        space: what it may do.
        game: scores of plans.
        stop_at: from this ask on (counted from 0) answer with `SearchStopped` and no scores.
        max_evaluations: answer so also where an ask would pass this limit.

    Returns:
        The asks and the outcome; no outcome if the strategy did not catch `SearchStopped`.
    """
    asks: list[Ask] = []
    ledger = Ledger(Tariff(space.num_blocks, FREE, space.num_windows, 1, 1.0, 0.0, 1.0, 0.0), Limits(max_evaluations))
    if max_evaluations is not None:
        space = dataclasses.replace(space, fits=ledger.fits, limited=True)
    generator = strategy.search(space)
    try:
        ask = next(generator)
        while True:
            if ledger.limit_passed_by(ask.plans, 0, ask.windows, ask.screen):
                ask = generator.throw(SearchStopped("test", _scores(ask, space, lambda _: np.nan)))
                continue
            ledger.charge(ask.plans, ask.windows, ask.screen)
            asks.append(ask)
            if stop_at is not None and len(asks) > stop_at:
                ask = generator.throw(SearchStopped("test", _scores(ask, space, lambda _: np.nan)))
            else:
                ask = generator.send(_scores(ask, space, game))
    except StopIteration as end:
        return Played(tuple(asks), end.value)
    except SearchStopped:
        return Played(tuple(asks), None)


def _scores(ask: Ask, space: Space, game: Game | WindowGame) -> Scores:
    windows = list(range(space.num_windows) if ask.windows is None else ask.windows)
    values = np.empty((len(ask.plans), 1))
    per_window = np.full((len(ask.plans), 1, space.num_windows), np.nan)
    for i, plan in enumerate(ask.plans):
        score = np.asarray(game(plan), dtype=np.float64)
        values[i, 0] = score[windows].mean() if score.ndim else score
        per_window[i, 0, windows] = np.broadcast_to(score, space.num_windows)[windows]
    return Scores(ask.plans, values, per_window)
