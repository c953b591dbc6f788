"""What may stand on an axis: an objective, the number of removed units, or what a plan leaves of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from results.finished_run import FinishedRun
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError, did_you_mean

SIZE = "size"
"""The axis of removed units, for runs of one granularity."""

_UNITS = {"parameters": "parameters left", "weights-bytes": "bytes of weights left"}
_UNITS |= {"kv-cache": "bytes of KV cache left, a token", "flops": "FLOPs left, a token"}


@dataclass(frozen=True)
class Quantity:
    """A number of a plan, for an axis.

    Attributes:
        name: as the user says it.
        label: as the axis says it.
        lower_is_better: its direction.
        static: whether it follows from the plan alone, so that no text is needed.
        of: the number for a plan of a run.
    """

    name: str
    label: str
    lower_is_better: bool
    static: bool
    of: Callable[[FinishedRun, PrunePlan], float]


def find_quantity(runs: Sequence[FinishedRun], name: str) -> Quantity:
    """The quantity of this name, which every run must have.

    Raises:
        UsageError: a run has none of this name, or sizes of different granularities would be compared.
    """
    if name == SIZE:
        granularities = sorted({str(run.config.granularity) for run in runs})
        if len(granularities) > 1:
            raise UsageError(
                f"Sizes of granularity {' and '.join(granularities)} cannot share an axis",
                f"Take one of {', '.join(n for n in known_quantities(runs) if n != SIZE)}",
            )
        return Quantity(SIZE, "units removed", False, True, lambda run, plan: plan.size(run.config.granularity))
    if name not in known_quantities(runs):
        known = known_quantities(runs)
        raise UsageError(
            f"'{name}' is nothing that all of these runs can show on an axis",
            f"{did_you_mean(name, known)}There is {', '.join(known)}",
        )
    if all(name in run.objectives for run in runs):
        return _objective(runs, name)
    return Quantity(name, _UNITS.get(name, f"{name} left"), True, True, lambda run, plan: run.amounts[name].left(plan))


def known_quantities(runs: Sequence[FinishedRun]) -> list[str]:
    """What all of these runs can show on an axis."""
    objectives = [name for name in runs[0].objectives if all(name in run.objectives for run in runs)]
    amounts = [name for name in runs[0].amounts if all(name in run.amounts for run in runs)]
    same = len({run.config.granularity for run in runs}) == 1
    return list(dict.fromkeys([*objectives, *([SIZE] if same else []), *amounts]))


def default_axes(runs: Sequence[FinishedRun], objective: str) -> tuple[str, str] | None:
    """What there is to see first: x, what is left of the model or else the next objective, and y, this objective."""
    others = [name for name in known_quantities(runs) if name != objective]
    measured = [name for name in others if name in runs[0].objectives]
    says_size = [name for name in measured if runs[0].objectives[name].says_size]
    plain = [name for name in (SIZE, "parameters") if name in others]
    found = [*says_size, *measured, *plain]
    return (found[0], objective) if found else None


def _objective(runs: Sequence[FinishedRun], name: str) -> Quantity:
    objective = runs[0].objectives[name]

    def value(run: FinishedRun, plan: PrunePlan) -> float:
        return run.objectives[name].value(run.measurements.rows("search", plan, name))

    label = name if objective.unit == name else f"{name} ({objective.unit})"
    return Quantity(name, label, objective.lower_is_better, objective.reads == "plan" and objective.repeatable, value)
