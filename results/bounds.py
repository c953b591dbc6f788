"""Where hypervolumes end: at a point that follows from the dense model alone, whatever else is compared."""

import math
from dataclasses import dataclass

from results.axes import SIZE, Quantity
from results.finished_run import FinishedRun
from results.intervals import is_exponential, range_of
from searcher.contracts.objective import Objective
from searcher.contracts.plan import Granularity, PrunePlan

TIMES = 10
"""A plan of more than so many times the dense model's perplexity is of no use to anybody, and counts for nothing."""


@dataclass(frozen=True)
class Bound:
    """Both ends of an axis, in its own unit.

    Attributes:
        worst: what is no better adds nothing to a hypervolume.
        best: together with `worst` it spans the volume that is called 1.
        told: what `worst` is, in words.
    """

    worst: float
    best: float
    told: str


def bound_of(run: FinishedRun, quantity: Quantity) -> Bound | None:
    """Both ends of an axis for a run, from its dense model on the search windows.

    Args:
        run: whose model and granularity count.
        quantity: of the axis.

    Returns:
        None where the dense model does not bound it: a plug-in's value without a range, of which the dense model has
        nothing.
    """
    if quantity.name == SIZE:
        every = run.record["num_blocks"] * (2 if run.config.granularity is Granularity.SUBLAYER else 1)
        return Bound(0.0, every, "nothing removed")
    dense = quantity.of(run, PrunePlan())
    objective = run.objectives.get(quantity.name)
    if objective is None or objective.says_size:
        return Bound(dense, 0.0, "the dense model's")
    found = _of_quality(objective, dense)
    return found if found and math.isfinite(found.worst) and found.worst != dense else None


def _of_quality(objective: Objective, dense: float) -> Bound | None:
    """From a stated distance to the dense model, or the end of the range where that comes first."""
    least, largest = range_of(objective)
    if not objective.lower_is_better:
        end = 0.0 if dense > 0 else least
        return Bound(end, dense, "the worst there can be")
    if is_exponential(objective):
        return Bound(TIMES * dense, dense, f"{TIMES} times the dense model's")
    if objective.unit.startswith("nats"):
        far, told = dense + math.log(TIMES), f"ln {TIMES} above the dense model's"
    elif dense > 0:
        far, told = TIMES * dense, f"{TIMES} times the dense model's"
    else:
        far, told = math.inf, ""
    return Bound(far, dense, told) if far < largest else Bound(largest, dense, "the worst there can be")
