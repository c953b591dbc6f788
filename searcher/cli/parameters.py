"""Parameters that several commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

PlanByHand = Annotated[str | None, typer.Option("--plan", help="Or a plan by hand, such as 3-5,9.")]
SizeOfRun = Annotated[int | None, typer.Option("--size", help="Size of the run's chosen plan. Default: the full size.")]
RepairsDir = Annotated[
    Path | None, typer.Option("--runs-dir", help="Where repairs are kept. Default: beside the run, or runs.")
]
Format = Annotated[Literal["table", "json"], typer.Option("--format", help="How the result is printed.")]
