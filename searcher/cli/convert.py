"""`searcher convert`: runs in the formats of other programs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import searcher
from searcher.contracts.own_packages import check_own_packages


def convert(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.", metavar="RUN...")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Every evaluation as a table: .csv, .parquet or .json. Or the plan as a mergekit recipe: .yaml.",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Size of the chosen plan for the recipe. Default: the full size.")
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(help="Original checkpoint for the recipe. Default: the model of the run.")
    ] = None,
    optuna: Annotated[
        str | None,
        typer.Option(help="Database to write each run into as an Optuna study, or to complete a study in."),
    ] = None,
) -> None:
    """Write finished runs in the formats of other programs.

    Examples:

    searcher convert runs/greedy runs/shapley -o evaluations.parquet

    searcher convert runs/greedy -o plan.yaml --size 8

    searcher convert runs/greedy --optuna sqlite:///study.db

    and then look at it:

    optuna-dashboard sqlite:///study.db
    """
    check_own_packages()
    from rich.markup import escape

    from results.convert import convert as converted
    from results.table import show

    loaded = [searcher.load_run(folder) for folder in {folder.resolve(): folder for folder in runs}.values()]
    show(*map(escape, converted(loaded, output, size, model_name, optuna, _say)))


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
