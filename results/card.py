"""What the model card of an exported plan says: the numbers of its run, and the command that makes it again."""

import shlex

from results.run import Run
from results.table import estimate
from searcher.checkpoint.card import Card, Numbers
from searcher.config import MeasurementConfig
from searcher.plan import PrunePlan

FLAGS = ("model", "revision", "trust_remote_code", "dtype")
"""Options of measurement that `searcher export` takes and that matter to it."""
HEALING_FLAGS = ("data", "window_tokens", "heal_windows")
"""The same, where it heals."""


def card_of(run: Run | None, plan: PrunePlan, original: str, healing: str, config: MeasurementConfig) -> Card:
    """What to say of a plan, with the values of the run that chose it, if one did."""
    if run is None:
        return Card(original, _command(["--plan", str(plan)], healing, config, MeasurementConfig()), healing)
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
        _command([place, *size], healing, config, run.config),
        healing,
        Numbers(columns, rows, f"the report split of {run.record['text']}"),
        search=search,
    )


def _command(source: list[str], healing: str, config: MeasurementConfig, known: MeasurementConfig) -> str:
    """The command but for its folder; options are given where they differ from those that it takes from the source."""
    given = ["searcher", "export", *source]
    for name in FLAGS + (HEALING_FLAGS if healing else ()):
        value, flag = getattr(config, name), f"--{name.replace('_', '-')}"
        if value != getattr(known, name):
            given += [flag] if value is True else [flag, str(value)]
    given += ["--heal", healing] if healing else []
    return shlex.join(given)
