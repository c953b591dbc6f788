"""`searcher heal`: heal a plan in one or several ways."""

from pathlib import Path
from typing import Annotated, Any

import typer

import searcher
from searcher.api.unused_options import NOT_TAKEN
from searcher.cli.flags import combined, takes
from searcher.cli.output import print_json
from searcher.cli.parameters import Format, PlanByHand, RepairsDir, SizeOfRun
from searcher.runs.config import MeasurementConfig


@takes(MeasurementConfig, without=("heal", *NOT_TAKEN["heal"]))
def heal(
    options: dict[str, Any],
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished run, whose chosen plan is healed.")] = None,
    plan: PlanByHand = None,
    size: SizeOfRun = None,
    heal: Annotated[
        list[str] | None,
        typer.Option(help="How, such as bias or lora:steps=200; may be repeated. Default: that of the run, or lora."),
    ] = None,
    runs_dir: RepairsDir = None,
    output: Format = "table",
) -> None:
    """Heal a plan, and measure it before and after on text that neither search nor healing has seen.

    The dense model is healed the same way, as a control: a part of what healing gains is that the model gets used to
    the text. What was healed is kept, so that the same command, and export, need not do it again. `searcher list
    healings` shows what there is.

    Examples:

    searcher heal runs/greedy --heal bias --heal linear --heal lora:steps=200

    searcher heal --plan 4,13-18,26 --heal lora:steps=200,where=after,iterative=true
    """
    options = combined({}, options)
    found = searcher.heal(run, plan=plan, size=size, heal=heal or (), runs_dir=runs_dir, **options)
    from results.healings import healings_document, healings_lines

    if output == "json":
        print_json(healings_document(found))
    else:
        from results.table import show

        show(*healings_lines(found))
