"""`searcher evaluate`: measure plans."""

from typing import Annotated, Any, Literal

import typer

import searcher
from searcher.cli.flags import combined, takes
from searcher.cli.output import print_json
from searcher.cli.parameters import Format
from searcher.runs.config import MeasurementConfig


@takes(MeasurementConfig)
def evaluate(
    options: dict[str, Any],
    plan: Annotated[
        list[str], typer.Option(help="What to remove, such as 3-5,9 or 12.attn or dense; may be repeated.")
    ],
    split: Annotated[Literal["report", "search"], typer.Option(help="Part of the text to measure on.")] = "report",
    output: Format = "table",
) -> None:
    """Measure plans by hand.

    Example: searcher evaluate --plan dense --plan 3-5,9 --plan 12.attn
    """
    document = searcher.evaluate(plan, split=split, **combined({}, options))
    if output == "json":
        print_json(document)
    else:
        from results.table import evaluations_table, show

        show(evaluations_table(document, split))
