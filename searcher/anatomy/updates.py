"""How much each block, attention and FFN adds to the residual stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searcher.anatomy.work import Done, at_work, ignore
from searcher.contracts.cost import Cost, Prices
from searcher.contracts.plan import Action, Part, Unit
from searcher.replay.dense_statistics import DenseStates, run_dense
from searcher.replay.replay import Replay


@dataclass(frozen=True, eq=False)
class Updates:
    """Statistics of the update h' - h of each unit, over all tokens and the d dimensions of the hidden states.

    Attributes:
        units: whose.
        mean: float64 (units,), over tokens and dimensions.
        mean_absolute: float64 (units,), of |h' - h|.
        sigma: float64 (units,): sqrt(1/N sum_i 1/d sum_n (Dh_in - mu_n)^2), mu_n the mean over the N tokens.
        tokens: N.
    """

    units: tuple[Unit, ...]
    mean: NDArray[np.float64]
    mean_absolute: NDArray[np.float64]
    sigma: NDArray[np.float64]
    tokens: int

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name; the units as text."""
        units = np.array([str(unit) for unit in self.units])
        return {"units": units, "mean": self.mean, "mean_absolute": self.mean_absolute, "sigma": self.sigma}

    def facts(self) -> dict[str, Any]:
        """JSON."""
        return {"tokens": self.tokens, "units": [str(unit) for unit in self.units]}


def cost(num_blocks: int, windows: int, units: Sequence[Unit], prices: Prices) -> Cost:
    """What measuring costs: one dense pass, and an attention for each block of which a sublayer is asked about."""
    per_window = num_blocks + len(_opened(units)) * prices.weight[Action.NO_FFN]
    return Cost(layer_forwards=windows * per_window)


def measure_updates(replay: Replay, ids: Tensor, units: Sequence[Unit], done: Done = ignore) -> Updates:
    """Measure what units add to the residual stream of the dense model.

    The update is the difference of the stream before and after, whatever the block does on the way: norms after a
    sublayer and multipliers of its output count as part of it, and where attention and FFN read the same state the FFN
    adds to what the attention has left. Of states in half precision it is a difference of rounded numbers.

    Args:
        replay: the model, checked for the granularity of the units.
        ids: int64 (windows, tokens).
        units: blocks, sublayers or both, of which none is doubled.
        done: told how far it is.
    """
    sums = [_Moments() for _ in units]
    opened = _opened(units)
    for row in ids:
        with at_work():
            states = run_dense(replay, [row[None].to(replay.model.device)], opened)[0]
            for unit, moments in zip(units, sums, strict=True):
                moments.add(_update(states, unit))
            del states
        done(1 / len(ids))
    return Updates(
        units=tuple(units),
        mean=np.array([moments.mean.mean().item() for moments in sums]),
        mean_absolute=np.array([moments.absolute.mean().item() / moments.count for moments in sums]),
        sigma=np.array([(moments.squares / moments.count).mean().sqrt().item() for moments in sums]),
        tokens=ids.numel(),
    )


class _Moments:
    """Mean, squared deviations from it and absolute values by dimension, (d,) float64, of tokens seen in portions.

    Deviations are joined by Chan, Golub and LeVeque's formula (1983, The American Statistician 37), for a difference of
    large sums would lose what varies little around a large mean.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = self.absolute = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """float64 (tokens, d)."""
        here, mean = len(values), values.mean(dim=0)
        together, apart = self.count + here, mean - self.mean
        self.squares = self.squares + (values - mean).square().sum(dim=0) + apart**2 * (self.count * here / together)
        self.mean = self.mean + apart * (here / together)
        self.absolute = self.absolute + values.abs().sum(dim=0)
        self.count = together


def _update(states: DenseStates, unit: Unit) -> Tensor:
    before, after = states.around(unit)
    return after.double() - before.double()


def _opened(units: Sequence[Unit]) -> tuple[int, ...]:
    return tuple(sorted({unit.block for unit in units if unit.part is not Part.BLOCK}))
