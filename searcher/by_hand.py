"""Measuring plans by hand."""

import contextlib
from collections.abc import Sequence
from typing import Any

from searcher.config import MeasurementConfig
from searcher.errors import UsageError
from searcher.measurement import Measurements
from searcher.objective import Split
from searcher.plan import Granularity, Part, PrunePlan
from searcher.preparation import make_objectives, prepare
from searcher.progress import Progress


def evaluate_plans(config: MeasurementConfig, texts: Sequence[str], split: str, progress: Progress) -> dict[str, Any]:
    """See `searcher.evaluate`, which this is."""
    plans = [PrunePlan.parse(text) for text in texts]
    splits: dict[str, Split] = {"search": "search", "report": "report"}
    if split not in splits:
        raise UsageError(f"Split '{split}' is not known", "Choose search or report")
    if not plans:
        raise UsageError("No plan to measure", "Give one or more with --plan, such as --plan 3-5,9")
    granularity = _granularity(plans)
    prepared = prepare(config, make_objectives(config), granularity, progress.say)
    for plan in plans:
        plan.check(prepared.model.num_blocks)
    known = Measurements(prepared.crew.layout)
    distinct = tuple(dict.fromkeys(plans))
    with contextlib.closing(prepared.crew) as crew:
        for line in progress.counted(crew.measure(splits[split], distinct, known), len(distinct)):
            known.add(line)
    return {
        "evaluations": [
            {
                "plan": str(plan),
                "size": plan.size(granularity),
                "values": {
                    name: objective.value(known.rows(splits[split], plan, name))
                    for name, objective in prepared.objectives.items()
                },
            }
            for plan in plans
        ]
    }


def _granularity(plans: Sequence[PrunePlan]) -> Granularity:
    """The one whose units the plans remove; `sublayer` where they are mixed."""
    alone = {Part.BLOCK: Granularity.BLOCK, Part.ATTENTION: Granularity.ATTENTION, Part.FFN: Granularity.FFN}
    parts = {unit.part for plan in plans for unit in plan.removed} or {Part.BLOCK}
    return alone[parts.pop()] if len(parts) == 1 else Granularity.SUBLAYER
