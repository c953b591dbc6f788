"""The command line. stdout is the result, stderr the progress; exit 0 done, 1 failed, 2 bad usage, 130 interrupted.

Heavy modules are imported inside the commands, so that `searcher --help` answers at once.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

import searcher
from searcher.anatomy.parts import PARTS
from searcher.cli.flags import combined, takes
from searcher.cli.help_text import Command, Commands
from searcher.cli.options import NOT_TAKEN
from searcher.contracts.form import Form
from searcher.contracts.own_packages import check_own_packages
from searcher.contracts.plan import Granularity
from searcher.errors import UsageError
from searcher.runs.config import MeasurementConfig, RunConfig, read_config_file
from searcher.runs.files import FULL, is_stdout
from searcher.runs.stdout import result_stream

app = typer.Typer(
    name="searcher",
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would double the time that help takes
    context_settings={"max_content_width": 120},
    help="Search for prune plans of large language models: which blocks, attention or FFN sublayers to remove.",
    epilog="Start with:  searcher run --strategy shapley --budget 8",
)
command = partial(app.command, cls=Command)

PlanByHand = Annotated[str | None, typer.Option("--plan", help="Or a plan by hand, such as 3-5,9.")]
SizeOfRun = Annotated[int | None, typer.Option("--size", help="Size of the run's chosen plan. Default: the full size.")]
RepairsDir = Annotated[
    Path | None, typer.Option("--runs-dir", help="Where repairs are kept. Default: beside the run, or runs.")
]
Format = Annotated[Literal["table", "json"], typer.Option("--format", help="How the result is printed.")]


@command()
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
        _print_json(finished.document())
    else:
        from results.table import run_lines, show

        show(*run_lines(finished))


@command()
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
        _print_json(document)
    else:
        from results.table import evaluations_table, show

        show(evaluations_table(document, split))


@command()
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
        _print_json(healings_document(found))
    else:
        from results.table import show

        show(*healings_lines(found))


@command()
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
        typer.Option(help="Precision of the weights: float32, bfloat16 or float16. Default: that of the checkpoint."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a checkpoint that is there.")] = False,
    check: Annotated[bool, typer.Option(help="Load it again in a fresh process and compare it.")] = True,
    runs_dir: RepairsDir = None,
    output: Format = "table",
) -> None:
    """Write a pruned model as a Hugging Face checkpoint, with its tokenizer, its plan and a model card.

    A fresh process loads it, and compares logits and generation with what was measured, before the folder gets its
    name: it is there whole, or not at all. What healing needs is said by `searcher heal --help`; what was healed
    before is taken from there.

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
        _print_json(exported.to_json())
    else:
        from results.table import export_lines, show

        show(*export_lines(exported))


@command()
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


@command()
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


@command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of one model and text.")],
    objective: Annotated[str | None, typer.Option(help="Objective to compare by. Default: the first.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The run the others are compared with. Default: that of greedy, else the first.")
    ] = None,
    output: Format = "table",
) -> None:
    """Set runs side by side: for each size, is greedy beaten, by how much, and how sure is that?

    The gap on the search windows is exact: one better plan shows that greedy's is not the best. The gap on the report
    windows, which no plan was chosen by, comes with an interval.

    Example: searcher compare runs/greedy runs/portfolio runs/shapley
    """
    found = searcher.compare(*runs, objective=objective, reference=reference)
    if output == "json":
        _print_json(found.document())
    else:
        found.table()


@command()
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


@command("list")
def list_(
    what: Annotated[Literal["strategies", "objectives", "healings", "runs"], typer.Argument(help="What to list.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what each does, and every option.")] = False,
    budget: Annotated[
        str | None, typer.Option(help="Show what each strategy costs for this budget, such as 8 or 1-8.")
    ] = None,
    granularity: Annotated[
        Granularity | None, typer.Option(help="Units of that budget. Default: block.", show_default=False)
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(help="Blocks of the model it is for. Default: 30.", min=1, show_default=False)
    ] = None,
    runs_dir: Annotated[
        str | None, typer.Option(help="Where run folders are. Default: runs.", show_default=False)
    ] = None,
) -> None:
    """List the strategies, objectives and healings there are, or the runs you have made.

    Example: searcher list strategies --verbose --budget 25% --granularity sublayer --blocks 32
    """
    check_own_packages()
    if budget is not None and what != "strategies":
        raise UsageError(f"--budget says what strategies cost, but {what} are listed", "Leave it out")
    for flag, value in (("--granularity", granularity), ("--blocks", blocks)):
        if value is not None and budget is None:
            raise UsageError(
                f"{flag} {value} says what a --budget is counted in, and there is none",
                f"Write searcher list strategies --budget 8 {flag} {value}, or leave it out",
            )
    if runs_dir is not None and what != "runs":
        raise UsageError(f"--runs-dir says where runs are, but {what} are listed", "Leave it out")
    from results.listing import costs_table, plugin_lines, run_lines
    from results.table import show
    from searcher.contracts.registry import PLURAL, Kind

    if what == "runs":
        show(*run_lines(Path(runs_dir or "runs")))
    else:
        kinds: dict[str, Kind] = {plural: kind for kind, plural in PLURAL.items()}
        show(*plugin_lines(kinds[what], verbose))
    if budget is not None:
        show(costs_table(budget, granularity or Granularity.BLOCK, blocks or 30))


@command()
def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete what was computed on dense models; it is computed again.")
    ] = False,
) -> None:
    """Show what is kept in the cache folder between runs, how much it takes, and where.

    What objectives look up in the dense model and its statistics are kept there up to SEARCHER_CACHE_LIMIT (1GiB; 0
    keeps nothing), those used last; so are GGUF files as they were converted, and the default model. SEARCHER_CACHE is
    the folder.

    Example: searcher cache --clear
    """
    check_own_packages()
    from results.cache_table import cache_lines
    from results.table import show
    from searcher.commands.cache import cache_contents, clear_dense

    if clear:
        clear_dense()
    show(*cache_lines(cache_contents()))


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _print_json(document: dict[str, Any]) -> None:
    from searcher.runs.measurement import to_plain_json

    text = json.dumps(to_plain_json(document), indent=2, allow_nan=False)
    result_stream().write(f"{text}\n")


def main() -> NoReturn:
    """The console script: runs a command and turns what went wrong into one line and an exit code."""
    kept = "What was measured is kept; the same command goes on from there"
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
        if code == 130:
            _complain("Interrupted", kept, code)
    except UsageError as error:
        code = _complain(f"Error: {error.message}", error.hint, 2)
    except typer.TyperException as error:  # an unknown option, or a value that is none of the choices
        code = _complain(f"Error: {error.format_message()}", "See what there is with --help", 2)
    except OSError as error:
        full = f"The disk is full: make room. {kept}"
        code = _complain(f"Error: {error}", full if error.errno in FULL else kept, 1)
    sys.exit(code)


def _complain(message: str, hint: str, code: int) -> int:
    message = " ".join(message.split("\n"))  # of an exception of somebody else's, say
    sys.stderr.write(f"{message}\n  {hint}\n" if hint else f"{message}\n")
    return code
