"""What the model card of an exported plan says: the numbers of its run, and the command that makes it again."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from results.finished_run import FinishedRun, Values
from results.table import estimate
from searcher.checkpoint.card import Card, Numbers, Value
from searcher.contracts.plan import PrunePlan
from searcher.loading.sources import SHORT_NAMES
from searcher.runs.config import MeasurementConfig

FLAGS = ("model", "revision", "trust_remote_code", "device")
"""Options of measurement that `searcher export` takes and that matter to it."""
HEALING_FLAGS = ("data", "heal_data", "heal_answers", "window_tokens", "heal_windows")
"""The same, where it heals."""


def card_of(
    run: FinishedRun | None,
    plan: PrunePlan,
    original: str,
    healing: str,
    config: MeasurementConfig,
    more: Mapping[str, str | None],
) -> Card:
    """What to say of a plan, with the values of the run that chose it, if one did.

    Args:
        run: the run, if there is one.
        plan: that is exported.
        original: name of the model.
        healing: how it was healed, empty if it was not.
        config: what was loaded, and healed with.
        more: other options that were given, by their names on the command line.
    """
    if run is None:
        command = _command(["--plan", str(plan)], healing, config, MeasurementConfig(), more)
        return Card(original, command, healing, datasets=_healed_on(config) if healing else ())
    evaluation = run.evaluation(plan)
    search = (
        f"The plan was chosen by the strategy `{run.config.strategy}` (granularity {run.config.granularity}, budget "
        f"{run.config.budget}), on other text than it is judged on."
    )
    if run.config.quantize is not None:  # other weights than those that are written
        search += f" It was chosen and measured with the weights of blocks in {run.config.quantize}."
    columns, found = ["original", "pruned"], [run.dense.report, evaluation.report]
    if evaluation.healed and run.config.healed_by == healing:
        columns[1:] = [f"pruned, healed by {run.config.heal}"] if run.config.heal_final else columns[1:]
        columns.append("pruned and healed")
        found.append(evaluation.healed.report)
    elif healing and run.config.heal == healing:
        columns[1] = "pruned and healed"
    rows = [[name, *(estimate(report[name]) for report in found)] for name in run.objectives]
    size = [] if plan == run.best.plan else ["--size", str(evaluation.size)]
    # what is exported was measured as it is, unless it was healed in a way that the run has not seen, or quantised
    as_measured = healing in (run.config.heal or "", run.config.healed_by) and run.config.quantize is None
    values = _values(run, Values(evaluation.search, found[-1])) if as_measured else ()
    return Card(
        original,
        _command([str(run.folder), *size], healing, config, run.config, more),
        healing,
        Numbers(columns, rows, f"the report split of {run.record['text']}", values),
        search=search,
        datasets=sorted({*_datasets(run.config.data), *(_healed_on(config) if healing else ())}),
    )


def _values(run: FinishedRun, found: Values) -> tuple[Value, ...]:
    """Those that say how good the model is, and not how large or fast."""
    found_on = _datasets(run.config.data)
    text = found_on[0] if len(found_on) == len(run.text_names) == 1 else run.record["text"]
    values = []
    for label, objective in run.objectives.items():
        name, options = run.config.objective_specs[label]
        if objective.reads == "windows":
            values.append(Value(label, name, found.report[label].value, text))
        elif own := options.get("task") or options.get("file"):
            values.append(Value(label, str(options.get("metric", name)), found.report[label].value, Path(own).name))
    return tuple(values)


def _healed_on(config: MeasurementConfig) -> tuple[str, ...]:
    return _datasets(config.heal_data or config.data)


def _datasets(texts: tuple[str, ...] | None) -> tuple[str, ...]:
    """Hub ids of the texts that are from there."""
    names = (SHORT_NAMES.get(text, text).split(":")[0] for text in texts or ())
    return tuple(name for name in names if "/" in name and not _is_here(name))


def _is_here(name: str) -> bool:
    return name.startswith((".", "/", "~")) or bool(Path(name).suffix) or Path(name).exists()


def _command(
    source: list[str],
    healing: str,
    config: MeasurementConfig,
    known: MeasurementConfig,
    more: Mapping[str, str | None],
) -> str:
    """The command but for its folder; options are given where they differ from those that it takes from the source."""
    options = {
        name.replace("_", "-"): getattr(config, name)
        for name in FLAGS + (HEALING_FLAGS if healing else ())
        if getattr(config, name) != getattr(known, name)
    }
    given = ["searcher", "export", *source]
    for name, value in ({**options, **more} | ({"heal": healing} if healing else {})).items():
        if value is not None and value is not False:
            several = value if isinstance(value, tuple) else (value,)
            given += [f"--{name}"] if value is True else [text for one in several for text in (f"--{name}", str(one))]
    return shlex.join(given)
