"""`searcher report`: runs as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

import searcher
from searcher.runs.files import is_stdout
from searcher.runs.stdout import result_stream


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of one model and text.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write; an old one is replaced.")] = Path(
        "report.html"
    ),
    objective: Annotated[str | None, typer.Option(help="Objective to show. Default: the first.")] = None,
    axes: Annotated[
        str | None,
        typer.Option(help="What the Pareto fronts show, x,y: objectives, size, parameters, kv-cache, flops, …"),
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder to keep the pictures in too, as PNG and SVG.")] = None,
) -> None:
    """Write pictures and tables of runs into one HTML file that needs nothing else.

    Example: searcher report runs/greedy runs/shapley -o report.html --axes kv-cache,perplexity
    """
    for path in searcher.report(runs, output, objective=objective, axes=axes, pictures=pictures):
        if not is_stdout(path):
            result_stream().write(f"{path}\n")
