"""What the model card of an exported plan says: the numbers of its run, and the command that makes it again."""

import shlex
from pathlib import Path

from results.run import Run
from results.table import estimate
from searcher.checkpoint.card import Card, Numbers
from searcher.config import MeasurementConfig
from searcher.plan import PrunePlan


def card_of(
    run: Run | None, plan: PrunePlan, original: str, healing: str, config: MeasurementConfig, folder: Path
) -> Card:
    """What to say of a plan, with the values of the run that chose it, if one did."""
    if run is None:
        return Card(original, _command(["--plan", str(plan)], healing, config, folder), healing)
    place = str(run.folder)
    evaluation = run.evaluation(plan)
    search = (
        f"The plan was chosen by the strategy `{run.config.strategy}` (granularity {run.config.granularity}, budget "
        f"{run.config.budget}), on other text than it is judged on."
    )
    columns, found = ["original", "pruned"], [run.dense.report, evaluation.report]
    if evaluation.healed and run.config.heal == healing:
        columns.append("pruned and healed")
        found.append(evaluation.healed.report)
    elif healing and run.config.heal == healing:
        columns[1] = "pruned and healed"
    rows = [[name, *(estimate(report[name]) for report in found)] for name in run.objectives]
    size = [] if plan == run.best.plan else ["--size", str(evaluation.size)]
    return Card(
        original,
        _command([place, *size], healing, config, folder),
        healing,
        Numbers(columns, rows, f"the report split of {run.record['text']}"),
        search=search,
    )


def _command(source: list[str], healing: str, config: MeasurementConfig, folder: Path) -> str:
    given = ["searcher", "export", *source]
    if source[0] == "--plan":
        given += ["--model", config.model] if config.model else []
        given += ["--data", config.data] if config.data and healing else []
    given += ["--heal", healing] if healing else []
    return shlex.join([*given, "-o", str(folder)])
