"""`searcher run`: search for the plan to remove."""

from pathlib import Path
from typing import Annotated, Any

import typer

import searcher
from searcher.cli.flags import combined, takes
from searcher.cli.output import print_json
from searcher.cli.parameters import Format
from searcher.runs.config import RunConfig
from searcher.runs.options import read_config_file


@takes(RunConfig)
def run(
    options: dict[str, Any],
    config: Annotated[
        Path | None, typer.Option(help="YAML file of these options (budget: 8); options given here win.")
    ] = None,
    output: Format = "table",
) -> None:
    """Search for the plan to remove, and judge it on text the search has not seen.

    Everything measured is kept at once in the run folder. The same command resumes an interrupted run, and shows a
    finished one again without measuring anything.

    Example: searcher run --strategy greedy --budget 25% --keep 0,1 --max-evaluations 200
    """
    finished = searcher.run(**combined(read_config_file(config) if config else {}, options))
    if output == "json":
        print_json(finished.document())
    else:
        from results.table import run_lines, show

        show(*run_lines(finished))
