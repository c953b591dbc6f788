"""Influence of blocks and sublayers by every metric, and how well each ranks them as their true removal does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from searcher.anatomy.correlation import Correlation, correlate
from searcher.anatomy.losses import Losses
from searcher.anatomy.means import measure_means
from searcher.anatomy.work import Done, at_work, ignore
from searcher.contracts.cost import Cost
from searcher.contracts.plan import PrunePlan, Unit
from searcher.contracts.statistics import cost_of
from searcher.replay.dense_statistics import measure_statistics
from searcher.replay.replay import Replay
from searcher.runs.measurement import Measurement

METRICS = ("cosine", "relative-l1", "relative-l2", "magnitude", "taylor", "logits")
"""Measured on the dense model; see `searcher.contracts.statistics`. Here `cosine` is 1 - E[cos(h, h')], so that of
every metric more is more influence."""
AT_ONCE = ("magnitude", "taylor")
"""Metrics that are no means over windows."""


@dataclass(frozen=True, eq=False)
class Influence:
    """How much units matter.

    Attributes:
        units: which.
        metrics: by name, float64 (units,): more is more influence.
        dense: float64 (windows,), the dense model's loss in nats per token.
        removed: float64 (units, windows), the loss without each unit.
    """

    units: tuple[Unit, ...]
    metrics: dict[str, NDArray[np.float64]]
    dense: NDArray[np.float64]
    removed: NDArray[np.float64]

    @property
    def leave_one_out(self) -> NDArray[np.float64]:
        """float64 (units,): what the mean loss rises by without each unit."""
        increase: NDArray[np.float64] = (self.removed - self.dense).mean(axis=1)
        return increase

    @property
    def correlations(self) -> dict[str, Correlation]:
        """By metric, its rank correlation with the leave-one-out loss over these units."""
        return {name: correlate(values, self.leave_one_out) for name, values in self.metrics.items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name; the units as text."""
        return {
            "units": np.array([str(unit) for unit in self.units]),
            "dense": self.dense,
            "removed": self.removed,
            "leave_one_out": self.leave_one_out,
            **self.metrics,
        }

    def facts(self) -> dict[str, Any]:
        """JSON."""
        correlations = {name: found.facts() for name, found in self.correlations.items()}
        return {"units": len(self.units), "windows": len(self.dense), "correlations": correlations}


def plans_for(units: Sequence[Unit]) -> list[PrunePlan]:
    """The plans whose losses are needed: the dense model and every unit's removal."""
    return [PrunePlan(), *(PrunePlan.of([unit]) for unit in units)]


def cost(losses: Losses, windows: int, units: Sequence[Unit], metrics: Sequence[str] = METRICS) -> Cost:
    """What measuring costs, metrics and those losses that are not known."""
    forwards, heads = cost_of(metrics, units, losses.num_blocks, losses.prices.weight)
    return Cost(layer_forwards=forwards * windows, heads=heads * windows) + losses.cost(plans_for(units))


def measure_removals(losses: Losses, units: Sequence[Unit], done: Done = ignore) -> Iterator[Measurement]:
    """The losses that :func:`measure_influence` needs, each when it is there, to be stored."""
    return losses.measure(plans_for(units), done)


def measure_influence(
    replay: Replay,
    ids: Tensor,
    units: Sequence[Unit],
    losses: Losses,
    metrics: Sequence[str] = METRICS,
    done: Done = ignore,
) -> Influence:
    """Measure every metric; the losses must have been measured, by :func:`measure_removals`.

    Args:
        replay: the model, checked for the granularity of the units; its weights no inference tensors for `taylor`.
        ids: int64 (windows, tokens), those of the losses.
        units: blocks, or sublayers.
        losses: of the removals.
        metrics: some of `METRICS`.
        done: told how far it is.

    Raises:
        UsageError: a loss is missing.
    """
    dense, *removed = [losses.of(plan) for plan in plans_for(units)]
    ids = ids.to(replay.model.device)
    means = [name for name in metrics if name not in AT_ONCE]
    found = measure_means(replay, ids, means, units, done)
    with at_work():
        found |= measure_statistics(replay, ids, [name for name in metrics if name in AT_ONCE], units)
    if "cosine" in found:
        found["cosine"] = 1 - found["cosine"]
    return Influence(tuple(units), {name: found[name] for name in metrics}, dense, np.array(removed))
