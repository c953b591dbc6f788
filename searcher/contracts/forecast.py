"""What a search will cost, found by letting the strategy play against made-up scores."""

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.cost import Cost
from searcher.contracts.drive import drive
from searcher.contracts.ledger import Ledger
from searcher.contracts.plan import PrunePlan
from searcher.contracts.scoreboard import removal_matrix
from searcher.contracts.space import Space
from searcher.contracts.statistics import shape_of
from searcher.contracts.strategy import Ask, Scores, SearchStopped, Strategy

SPREAD = 0.05
"""Standard deviation of what a made-up score owes to chance, where a unit costs 0.1 to 1."""


@dataclass(frozen=True)
class Forecast:
    """What a search is expected to be charged.

    Attributes:
        cost: in all; what comes before the first plan, and what is kept back for after the last, are parts of it.
        complete: False if it was cut short, so that it would have cost more.
    """

    cost: Cost
    complete: bool

    def __str__(self) -> str:
        return f"{'about' if self.complete else 'more than'} {self.cost.evaluations:,.0f} plans"


def forecast(strategy: Strategy, space: Space, ledger: Ledger, seconds: float = 2.0) -> Forecast:
    """Play a search against scores that are a sum over units and a little chance; only the cost means anything.

    A strategy that goes by what it finds will ask about other plans on a real model, and somewhat more or fewer.

    Args:
        strategy: what will search.
        space: what it may do; its statistics and limits are replaced.
        ledger: of the real search, charged for what comes before the first plan; left as it is.
        seconds: when to give up.
    """
    give_up = time.monotonic() + seconds
    rng, ledger = np.random.default_rng(0), ledger.copy()
    shapes = {name: shape_of(name, space.units, space.num_blocks, space.num_windows) for name in strategy.statistics}
    made_up = {name: rng.uniform(0.1, 0.9, shape) for name, shape in shapes.items()}
    search = strategy.search(dataclasses.replace(space, fits=ledger.fits, statistics=made_up))
    costs = rng.uniform(0.1, 1.0, len(space.units))
    complete = True

    def answer(ask: Ask) -> Scores | SearchStopped | None:
        nonlocal complete
        if time.monotonic() >= give_up:
            complete = False
            return None
        if reason := ledger.limit_passed_by(ask.plans, 0, ask.windows, ask.screen):
            return SearchStopped(reason, _answer(ask, space, np.full(len(ask.plans), np.nan)))
        ledger.charge(ask.plans, ask.windows, ask.screen)
        return _answer(ask, space, _scores(ask.plans, space, costs))

    drive(search, answer, None)
    return Forecast(ledger.charged + ledger.kept_back, complete)


def _scores(plans: tuple[PrunePlan, ...], space: Space, costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """A plan's score, the same whenever it is asked for."""
    removed = removal_matrix(plans, space)
    chance = np.sin(removed @ (1000.0 * costs) + 7.0)  # pseudo-random in the plan
    return 1.0 + removed @ costs + SPREAD * chance


def _answer(ask: Ask, space: Space, scores: NDArray[np.float64]) -> Scores:
    values = np.repeat(scores[:, None], space.goals, axis=1)
    per_window = np.full((*values.shape, space.num_windows), np.nan)
    windows = list(range(space.num_windows) if ask.windows is None else ask.windows)
    per_window[..., windows] = values[..., None]
    return Scores(ask.plans, values, per_window)
