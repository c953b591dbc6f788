"""Games of tiny trained models, whose blocks depend on each other as those of real ones do.

What is kept is a table of the losses of all their plans, made by `make_trained.py`: a model trained by the test that
judges it would be another one on another processor. Losses are multiples of `FINEST`, so that sums and means of them
are exact in whatever order a processor adds them up.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.games import make_space
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.contracts.space import Space
from strategies.portfolio import Portfolio

FILE = Path(__file__).parent / "trained.npz"
FINEST = 2.0**-10
"""Nats."""
WINDOWS = {12: 4, 16: 2}
"""By number of units."""
MODELS = [(granularity, 12, seed) for granularity in (Granularity.BLOCK, Granularity.SUBLAYER) for seed in (1, 2, 3)]
MODELS += [(granularity, 16, seed) for granularity in (Granularity.BLOCK, Granularity.SUBLAYER) for seed in (0, 1)]
"""Granularity, units, seed."""


def name_of(granularity: Granularity, num_units: int, seed: int) -> str:
    """Of a model, in the file."""
    return f"{granularity}-{num_units}-{seed}"


def row_of(plan: PrunePlan, space: Space) -> int:
    """Where a plan is in the table: a bit for each unit that it removes."""
    return sum(1 << space.units.index(unit) for unit in plan.units(space.granularity))


def packed(losses: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Losses (plans, windows) as (low and high byte, windows, plans), which compress better apart."""
    counts = np.round(losses.T / FINEST).astype("<u2")
    return np.stack([counts % 256, counts // 256]).astype(np.uint8)


def unpacked(stored: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The other way round."""
    low, high = stored.astype(np.float64)
    return np.ascontiguousarray((low + 256 * high).T * FINEST)


class Enumerated:
    """A game whose scores are those of every plan of a trained model: call it with a plan.

    Args:
        granularity: what its units are.
        num_units: how many there are.
        size: of the plans searched for.
        seed: of the model.
    """

    def __init__(self, granularity: Granularity, num_units: int, size: int, seed: int) -> None:
        num_blocks = num_units if granularity is Granularity.BLOCK else num_units // 2
        self.space = make_space(
            num_blocks,
            size,
            granularity=granularity,
            seed=seed,
            statistics=Portfolio().statistics,  # made up: the warm starts of a portfolio, no better than chance here
            num_windows=WINDOWS[num_units],
        )
        with np.load(FILE) as file:
            self._losses = unpacked(file[name_of(granularity, num_units, seed)])
        assert self._losses.shape == (2**num_units, self.space.num_windows)

    def __call__(self, plan: PrunePlan) -> NDArray[np.float64]:
        """float64 (windows,): its losses."""
        return self._losses[row_of(plan, self.space)]


enumerated = cache(Enumerated)
