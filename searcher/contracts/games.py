"""Synthetic games, where a plan's score is a formula, and playing a search against them without a model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searcher.contracts import registry
from searcher.contracts.cost import Cost, Prices
from searcher.contracts.drive import drive
from searcher.contracts.ledger import Ledger, Limits
from searcher.contracts.plan import Granularity, Part, PrunePlan, legal_units
from searcher.contracts.space import Need, Space
from searcher.contracts.statistics import shape_of
from searcher.contracts.strategy import Ask, Outcome, Scores, SearchStopped, Strategy
from searcher.contracts.tariff import Tariff

Game = Callable[[PrunePlan], float]
"""A plan's score, the same on every window; lower is better."""

WindowGame = Callable[[PrunePlan], NDArray[np.float64]]
"""A plan's scores, float64 (windows,); lower is better."""

NUM_WINDOWS = 4
FREE = Prices((0.0, 0.0, 0.0, 0.0), 0.0)
"""In a game only evaluations are counted, unless it is told what else costs."""
PATIENCE = 100
"""Asks without a new plan, or after being told to stop, that are answered with `SearchStopped`, or not at all."""


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
    keep: str = "",
) -> Space:
    """A space in which batches of at most `most` plans fit, without the units that `keep` protects.

    Its statistics are made up.
    """
    units = legal_units(num_blocks, granularity, PrunePlan.parse(keep))
    shapes = {name: shape_of(name, units, num_blocks, num_windows) for name in statistics}
    return Space(
        num_blocks=num_blocks,
        granularity=granularity,
        units=units,
        sizes=(size,),
        num_windows=num_windows,
        seed=seed,
        fits=lambda plans, spare=0, windows=None, then=(): len(plans) + sum(map(len, then)) + spare <= most,
        statistics={name: np.random.default_rng(0).uniform(0.1, 0.9, shape) for name, shape in shapes.items()},
        racing=racing,
    )


def limited_spaces(statistics: Sequence[str] = ()) -> dict[str, Space]:
    """Small spaces with limits of every kind, by what is special about them."""

    def make(size: int, *, sizes: Sequence[int] = (), blocks: int = 6, keep: str = "", **limits: object) -> Space:
        space = make_space(blocks, size, granularity=Granularity.SUBLAYER, statistics=statistics, keep=keep)
        return dataclasses.replace(space, sizes=tuple(sizes) or (size,), **limits)  # type: ignore[arg-type]

    units = make(1).units
    attention, ffn = ({unit: float(unit.part is part) for unit in units} for part in (Part.ATTENTION, Part.FFN))
    uneven = {unit: 1.0 + 0.37 * place for place, unit in enumerate(units)}
    dearest = sum(sorted(uneven.values())[-4:])
    return {
        "at most one attention": make(4, most={Part.ATTENTION: 1}),
        "no FFN at all": make(3, most={Part.FFN: 0}),
        "everything is removed": make(12, most={Part.ATTENTION: 6, Part.FFN: 6}),
        "only one plan": make(4, most={Part.ATTENTION: 2, Part.FFN: 2}, keep="1-4"),
        "a need that four attentions meet": make(5, needs=(Need(attention, 4.0),)),
        "a need that one plan meets": make(4, needs=(Need(uneven, dearest),)),
        "a need of units that all save another amount": make(4, needs=(Need(uneven, 0.8 * dearest),)),
        "two needs against each other": make(5, needs=(Need(attention, 2.0), Need(ffn, 3.0))),
        "a need, a limit and protected units": make(
            4, needs=(Need(attention, 2.0),), most={Part.ATTENTION: 3}, keep="0,5.ffn"
        ),
        "a range of sizes with a need": make(4, sizes=(1, 2, 3, 4), needs=(Need(attention, 3.0),)),
        "a range of sizes with a limit": make(5, sizes=(2, 3, 4, 5), most={Part.FFN: 1}),
        "a start": make(3, needs=(Need(attention, 2.0),), start=PrunePlan.parse("0.attn,3.attn,4.ffn")),
        "a start of the smallest size": make(3, sizes=(1, 2, 3), start=PrunePlan.parse("2.ffn")),
    }


@dataclass(frozen=True)
class Played:
    """A search that was played: what was asked, in order, what came out, and what the plans were charged."""

    asks: tuple[Ask, ...]
    outcome: Outcome | None
    charged: Cost

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
    max_cost: float | None = None,
    prices: Prices = FREE,
) -> Played:
    """Play a search against a game, without a model.

    Args:
        strategy: the player.
        space: what it may do.
        game: scores of plans.
        stop_at: from this ask on (counted from 0) answer with `SearchStopped` and no scores.
        max_evaluations: answer so also where an ask would pass this limit.
        max_cost: or this one, in blocks and heads over a window as they are priced.
        prices: of the parts of the model that there is not.

    Returns:
        The asks and the outcome; no outcome if the strategy did not catch `SearchStopped`.

    Raises:
        RuntimeError: the strategy goes on after it was told to stop.
    """
    limits = Limits(max_evaluations, None if max_cost is None else max_cost / 1000)  # of one token a window
    ledger = Ledger(Tariff(space.num_blocks, prices, space.num_windows, 1, 1.0, 0.0, 1.0, 0.0), limits)
    if limits != Limits():
        space = dataclasses.replace(space, fits=ledger.fits, limited=True)
    table = _Table(ledger, stop_at)

    def answer(ask: Ask) -> Scores | SearchStopped:
        if table.ends(ask):
            return SearchStopped("test", _scores(ask, space, lambda _: np.nan))
        return _scores(ask, space, game)

    outcome = drive(strategy.search(space), answer, None)
    return Played(tuple(table.asks), outcome, ledger.charged)


@dataclass
class _Table:
    """Where a search is played: keeps count."""

    ledger: Ledger
    stop_at: int | None
    asks: list[Ask] = field(default_factory=list)
    stale: int = 0
    told: int = 0

    def ends(self, ask: Ask) -> bool:
        """Charge for an ask; whether it is to be answered by `SearchStopped`."""
        if self.told > PATIENCE:
            raise RuntimeError(f"The strategy was told to stop {self.told} times and goes on")
        passed = self.ledger.limit_passed_by(ask.plans, 0, ask.windows, ask.screen) is not None
        if not passed:
            new = self.ledger.cost_of(ask.plans, ask.windows, ask.screen) != Cost()
            self.stale = 0 if new else self.stale + 1
            self.ledger.charge(ask.plans, ask.windows, ask.screen)
            self.asks.append(ask)
        late = self.stop_at is not None and len(self.asks) > self.stop_at
        stop = passed or late or self.stale >= PATIENCE
        self.told += stop
        return stop


def asked(name: str, options: Mapping[str, Any], seed: int) -> list[str]:
    """Every plan that a strategy asks for in a small additive game, as text."""
    strategy = registry.make("strategy", name, options)
    return [
        str(plan)
        for plan in play(strategy, make_space(8, 3, seed=seed, statistics=strategy.statistics), additive_game()).plans
    ]


def _scores(ask: Ask, space: Space, game: Game | WindowGame) -> Scores:
    windows = list(range(space.num_windows) if ask.windows is None else ask.windows)
    values = np.empty((len(ask.plans), 1))
    per_window = np.full((len(ask.plans), 1, space.num_windows), np.nan)
    for i, plan in enumerate(ask.plans):
        score = np.asarray(game(plan), dtype=np.float64)
        values[i, 0] = score[windows].mean() if score.ndim else score
        per_window[i, 0, windows] = np.broadcast_to(score, space.num_windows)[windows]
    return Scores(ask.plans, values, per_window)
