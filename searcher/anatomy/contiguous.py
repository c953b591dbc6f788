"""How alike the hidden states are n blocks apart: E[cos(h_l, h_(l+n))] for every l and n."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from searcher.anatomy.means import measure_means
from searcher.anatomy.work import Done, ignore
from searcher.contracts.cost import Cost
from searcher.contracts.plan import Granularity, all_units
from searcher.replay.replay import Replay


@dataclass(frozen=True, eq=False)
class Contiguous:
    """Cosines of states before and after runs of consecutive blocks (LLM-Streamline, arXiv:2403.19135).

    Attributes:
        cosines: float64 (blocks, blocks): at [n - 1, l] E[cos(h_l, h_(l+n))] of the n blocks from l on, NaN where there
            are not so many.
    """

    cosines: NDArray[np.float64]

    def most_alike(self, length: int) -> int:
        """The first of so many consecutive blocks that change the states' direction least; the lowest of equals."""
        return int(np.nanargmax(self.cosines[length - 1]))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name."""
        return {"cosines": self.cosines}

    def facts(self) -> dict[str, Any]:
        """JSON: by length of a run, its first block and its cosine where it is highest."""
        starts = [self.most_alike(length) for length in range(1, len(self.cosines) + 1)]
        return {
            "most_alike": [
                {"length": row + 1, "first": start, "cosine": float(self.cosines[row, start])}
                for row, start in enumerate(starts)
            ]
        }


def cost(num_blocks: int, windows: int) -> Cost:
    """What measuring costs: one dense pass."""
    return Cost(layer_forwards=float(windows * num_blocks))


def measure_contiguous(replay: Replay, ids: Tensor, done: Done = ignore) -> Contiguous:
    """Measure the cosines of all runs of blocks.

    Args:
        replay: the model.
        ids: int64 (windows, tokens).
        done: told how far it is.
    """
    blocks = replay.num_blocks
    units = all_units(blocks, Granularity.BLOCK)
    between = measure_means(replay, ids, ["state-cosines"], units, done)["state-cosines"]
    cosines = np.full((blocks, blocks), np.nan)
    for length in range(1, blocks + 1):
        cosines[length - 1, : blocks - length + 1] = np.diag(between, length)
    return Contiguous(cosines)
