"""Runs in the formats of other programs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from results.evaluations import write_evaluations
from results.finished_run import FinishedRun
from results.mergekit import write_merge_config
from results.optuna_study import mirror
from searcher.commands.optuna_mirror import Say
from searcher.errors import UsageError
from searcher.runs.notation import without_password

RECIPES = (".yaml", ".yml")


def convert(
    runs: Sequence[FinishedRun], output: Path | None, size: int | None, model: str | None, optuna: str | None, say: Say
) -> Iterator[str]:
    """Write what is asked for; a line about each thing that was written.

    Args:
        runs: what to convert.
        output: a table of evaluations, or a mergekit recipe, by its suffix.
        size: the chosen plan that the recipe is of.
        model: the original checkpoint that the recipe is of.
        optuna: URL of a database to mirror the runs into.
        say: is told what there is to wait for.

    Raises:
        UsageError: nothing is asked for, or it cannot be written.
    """
    if output is None and optuna is None:
        raise UsageError(
            "Convert to what?", "Name a file with -o, such as evaluations.csv, or a database with --optuna"
        )
    recipe = output is not None and output.suffix.lower() in RECIPES
    if not recipe and (size is not None or model is not None):
        raise UsageError("--size and --model-name are for a mergekit recipe", "Name it with -o, such as plan.yaml")
    if recipe and len(runs) > 1:
        raise UsageError(f"A mergekit recipe is of one run, not of {len(runs)}", "Name one run")
    if recipe and output is not None:
        plan = write_merge_config(runs[0], output, size, model)
        yield f"Wrote the recipe that removes {plan} to {output}; make the model with: mergekit-yaml {output} FOLDER"
    elif output is not None:
        yield f"Wrote {write_evaluations(runs, output)} evaluations to {output}"
    for run in runs if optuna is not None else ():
        plans = mirror(run, optuna or "", say)
        yield f"Study '{run.folder.name}' in {without_password(optuna or '')} has {plans} plans"
