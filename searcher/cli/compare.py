"""`searcher compare`: runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

import searcher
from searcher.cli.output import print_json
from searcher.cli.parameters import Format


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of one model and text.")],
    objective: Annotated[str | None, typer.Option(help="Objective to compare by. Default: the first.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The run the others are compared with. Default: that of greedy, else the first.")
    ] = None,
    output: Format = "table",
) -> None:
    """Set runs side by side: for each size, is greedy beaten, by how much, and how sure is that?

    The gap on the search windows is exact but for rounding: one plan that is better by more shows that greedy's is not
    the best. The gap on the report windows, which no plan was chosen by, comes with an interval. Runs that chose on
    other search windows (--windows, --data-seed) are compared on the report windows alone.

    Example: searcher compare runs/greedy runs/portfolio runs/shapley
    """
    found = searcher.compare(*runs, objective=objective, reference=reference)
    if output == "json":
        print_json(found.document())
    else:
        found.table()
