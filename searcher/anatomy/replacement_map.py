"""The replacement map: what the losses with block j in the place of block i show."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searcher.anatomy.correlation import Correlation, correlate

NEAR = 3
"""Blocks no further apart than this are neighbours, where symmetry is told of neighbours alone."""

Misfits = dict[tuple[int, int], str]
"""By place and block, why that block cannot run in that place."""


@dataclass(frozen=True, eq=False)
class ReplacementMap:
    """Losses with one block in the place of another.

    Attributes:
        losses: float64 (blocks, blocks, windows), in nats per token: at [i, j] with a copy of block j in place i. The
            diagonal is the dense model. NaN where a block does not fit or makes the model give NaN.
        misfits: the cells that could not be run.
    """

    losses: NDArray[np.float64]
    misfits: Misfits

    @property
    def dense(self) -> NDArray[np.float64]:
        """float64 (windows,)."""
        found: NDArray[np.float64] = self.losses[0, 0]
        return found

    @property
    def perplexity(self) -> NDArray[np.float64]:
        """float64 (blocks, blocks), over all windows."""
        with np.errstate(over="ignore"):  # infinity is the right answer
            found: NDArray[np.float64] = np.exp(self.losses.mean(axis=-1))
        return found

    @property
    def increase(self) -> NDArray[np.float64]:
        """float64 (blocks, blocks): how much higher the mean loss is than that of the dense model."""
        found: NDArray[np.float64] = (self.losses - self.dense).mean(axis=-1)
        return found

    @property
    def as_copy(self) -> NDArray[np.float64]:
        """float64 (blocks,): the median increase where a block stands for each of the others; low if for any."""
        return _medians(self.increase.T)

    @property
    def as_place(self) -> NDArray[np.float64]:
        """float64 (blocks,): the median increase where each of the others stands for a block; low if any can."""
        return _medians(self.increase)

    def symmetry(self, distance: int | None = None) -> Correlation:
        """Rank correlation of the increases at [i, j] and [j, i], over pairs no further apart than this."""
        one, other = np.triu_indices(len(self.losses), 1)
        close = other - one <= (distance or len(self.losses))
        pairs = np.array([self.increase[one, other], self.increase[other, one]])[:, close]
        here, there = pairs[:, np.isfinite(pairs).all(axis=0)]
        return correlate(here, there)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name."""
        return {
            "losses": self.losses,
            "perplexity": self.perplexity,
            "as_copy": self.as_copy,
            "as_place": self.as_place,
        }

    def facts(self) -> dict[str, Any]:
        """JSON."""
        return {
            "windows": self.losses.shape[-1],
            "symmetry": self.symmetry().facts(),
            "symmetry_near": {"distance": NEAR, **self.symmetry(NEAR).facts()},
            "misfits": [{"place": i, "block": j, "reason": why} for (i, j), why in sorted(self.misfits.items())],
        }


def _medians(increase: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row without the diagonal, of what is not NaN; NaN where nothing is."""
    off = increase.copy()
    np.fill_diagonal(off, np.nan)
    kept = [row[~np.isnan(row)] for row in off]
    return np.array([np.median(row) if len(row) else np.nan for row in kept])
