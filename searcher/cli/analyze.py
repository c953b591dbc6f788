"""`searcher analyze`: what the blocks of a model do."""

from pathlib import Path
from typing import Annotated, Any

import typer

import searcher
from searcher.anatomy.parts import PARTS
from searcher.api.unused_options import NOT_TAKEN
from searcher.cli.flags import combined, takes
from searcher.contracts.plan import Granularity
from searcher.runs.config import MeasurementConfig
from searcher.runs.stdout import result_stream


@takes(MeasurementConfig, without=NOT_TAKEN["analyze"])
def analyze(
    options: dict[str, Any],
    part: Annotated[
        list[str] | None,
        typer.Option(help=f"Part to measure: {', '.join(PARTS)}; may be repeated. Default: all but the last."),
    ] = None,
    granularity: Annotated[Granularity, typer.Option(help="Units that are compared.")] = Granularity.BLOCK,
    budget: Annotated[int, typer.Option(help="Plans that Shapley interactions may measure.", min=1)] = 4096,
    index: Annotated[str, typer.Option(help="Which Shapley interactions: k-SII or FSII.")] = "k-SII",
    name: Annotated[str | None, typer.Option(help="Name of the folder. Default: made from the options.")] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where its folder is.")] = Path("runs"),
) -> None:
    """Show what the blocks of a model do: influence, updates, heads, similarity, replacement and interactions.

    What each part costs is said before it starts. Each is kept in files as soon as it is measured, so that the same
    command goes on where it was interrupted: PART.npz holds the arrays, PART.json what is said about them, PART.png and
    PART.svg the picture. analysis.html shows all parts measured so far.

    Example: searcher analyze --part interactions --part replacement
    """
    folder = searcher.analyze(
        parts=part,
        granularity=granularity,
        budget=budget,
        index=index,
        name=name,
        runs_dir=runs_dir,
        **combined({}, options),
    )
    from results.anatomy import PAGE_FILE

    result_stream().write(f"{folder / PAGE_FILE}\n")
