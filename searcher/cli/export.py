"""`searcher export`: write a checkpoint."""

from pathlib import Path
from typing import Annotated, Any

import typer

import searcher
from searcher.api.unused_options import NOT_TAKEN
from searcher.cli.flags import combined, takes
from searcher.cli.output import print_json
from searcher.cli.parameters import Format, PlanByHand, RepairsDir, SizeOfRun
from searcher.contracts.form import Form
from searcher.runs.config import MeasurementConfig


@takes(MeasurementConfig, without=("heal", "dtype", *NOT_TAKEN["export"]))
def export(
    options: dict[str, Any],
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new checkpoint.")],
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished run, whose chosen plan is exported.")] = None,
    plan: PlanByHand = None,
    size: SizeOfRun = None,
    heal: Annotated[
        str | None, typer.Option(help="Heal it first, such as lora:steps=200. Default: as the run did, if it did.")
    ] = None,
    form: Annotated[
        Form | None,
        typer.Option(
            help="stock: an ordinary checkpoint; zeroed: one of full size, removed sublayers being zero; "
            "custom: loaded by searcher.load. Default: stock if it can be."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Precision of the weights: float32, bfloat16 or float16. Default: as they are in the checkpoint."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a checkpoint that is there.")] = False,
    check: Annotated[
        bool, typer.Option(help="Compare it with the original, and run it unless it was copied and is large.")
    ] = True,
    runs_dir: RepairsDir = None,
    output: Format = "table",
) -> None:
    """Write a pruned model as a Hugging Face checkpoint, with its tokenizer, its plan and a model card.

    Whole blocks are copied from the files of the model as they are, in little memory. The checkpoint is compared with
    the model before the folder gets its name: it is there whole, or not at all. What healing needs is said by
    `searcher heal --help`; what was healed before is taken from there.

    Examples:

    searcher export runs/greedy -o smol-22

    searcher export --plan 4,13-18,26 --heal lora:steps=200 -o smol-22-healed
    """
    exported = searcher.export(
        run,
        folder,
        plan=plan,
        size=size,
        heal=heal,
        form=form,
        force=force,
        check=check,
        runs_dir=runs_dir,
        **combined({}, options | ({"dtype": dtype} if dtype else {})),
    )
    if output == "json":
        print_json(exported.to_json())
    else:
        from results.table import export_lines, show

        show(*export_lines(exported))
