"""Measuring plans by hand."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searcher.commands.preparation import make_objectives, prepare
from searcher.commands.progress import Progress
from searcher.commands.tracking import Plans, Scale
from searcher.contracts.granularity import granularity_of
from searcher.contracts.objective import HEALED, Objective, Split
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError
from searcher.runs.config import MeasurementConfig
from searcher.runs.measurement import Measurements


@dataclass(frozen=True, eq=False)
class Measured:
    """Plans that were measured by hand.

    Attributes:
        plans: in the order asked.
        granularity: of all of them.
        objectives: by label.
        rows: by plan and label, float64 (rows,): a number for each window or item.
        documents: of each window, the document it was cut from.
    """

    plans: tuple[PrunePlan, ...]
    granularity: Granularity
    objectives: dict[str, Objective]
    rows: dict[PrunePlan, dict[str, NDArray[np.float64]]]
    documents: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The document that `searcher.evaluate` returns."""
        return {"evaluations": [self._entry(plan) for plan in self.plans]}

    def _entry(self, plan: PrunePlan) -> dict[str, Any]:
        values = {name: objective.value(self.rows[plan][name]) for name, objective in self.objectives.items()}
        return {"plan": str(plan), "size": plan.size(self.granularity), "values": values}


def measure_plans(config: MeasurementConfig, plans: Sequence[PrunePlan], split: str, progress: Progress) -> Measured:
    """Measure plans on a split; see `searcher.evaluate`."""
    splits: dict[str, Split] = {"search": "search", "report": "report"}
    if split not in splits:
        raise UsageError(f"Split '{split}' is not known", "Choose search or report")
    if not plans:
        raise UsageError("No plan to measure", "Give one or more with --plan, such as --plan 3-5,9")
    config.check_healed(config.heal is not None)
    granularity = granularity_of(plans)
    prepared = prepare(config, make_objectives(config), granularity, progress.say)
    for plan in plans:
        plan.check(prepared.model.num_blocks)
    measured = splits[split]
    if prepared.treatment and prepared.treatment.scope == "plan":
        measured = next(healed for healed, part in HEALED.items() if part == measured)
    known = Measurements(prepared.executor.layout)
    distinct = tuple(dict.fromkeys(plans))
    with contextlib.closing(prepared.executor) as executor:
        ahead = Plans.ahead(Scale.of_model(prepared), executor.groups, measured, distinct, known)
        for line in progress.counted(executor.measure(measured, distinct, known), ahead):
            known.add(line)
    rows = {plan: {name: known.rows(measured, plan, name) for name in prepared.objectives} for plan in distinct}
    documents = prepared.documents[splits[split]]
    return Measured(tuple(plans), granularity, prepared.objectives, rows, documents)
