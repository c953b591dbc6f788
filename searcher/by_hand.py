"""Measuring plans by hand."""

import contextlib
from collections.abc import Sequence
from typing import Any

from searcher.config import MeasurementConfig
from searcher.errors import UsageError
from searcher.granularity import granularity_of
from searcher.measurement import Measurements
from searcher.objective import HEALED, Split
from searcher.plan import PrunePlan
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
    if config.heal is None and config.heal_windows is not None:
        raise UsageError("--heal-windows is for healing, but nothing is healed", "Add --heal, or leave it out")
    granularity = granularity_of(plans)
    prepared = prepare(config, make_objectives(config), granularity, progress.say)
    for plan in plans:
        plan.check(prepared.model.num_blocks)
    measured = splits[split]
    if prepared.treatment and prepared.treatment.scope == "plan":
        measured = next(healed for healed, part in HEALED.items() if part == measured)
    known = Measurements(prepared.crew.layout)
    distinct = tuple(dict.fromkeys(plans))
    with contextlib.closing(prepared.crew) as crew:
        for line in progress.counted(crew.measure(measured, distinct, known), len(distinct)):
            known.add(line)
    return {
        "evaluations": [
            {
                "plan": str(plan),
                "size": plan.size(granularity),
                "values": {
                    name: objective.value(known.rows(measured, plan, name))
                    for name, objective in prepared.objectives.items()
                },
            }
            for plan in plans
        ]
    }
