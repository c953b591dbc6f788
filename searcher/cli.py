"""The command line. stdout is the result, stderr the progress; exit 0 done, 1 failed, 2 bad usage, 130 interrupted.

Heavy modules are imported inside the commands, so that `searcher --help` answers at once.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from searcher.errors import UsageError
from searcher.own_packages import check_own_packages

app = typer.Typer(
    name="searcher",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Search for [b]prune plans[/b] of large language models: which blocks, attention or FFN sublayers to remove.",
    epilog="Start with:  searcher run --strategy shapley --budget 8",
)

_MEASURE, _SEARCH, _LIMITS, _RUN = "What is measured", "How it is searched", "Limits", "Running"

Model = Annotated[
    str | None,
    typer.Option(
        help="Hub id, local folder or .gguf file. Default: SmolLM2-135M-Instruct, fetched once.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.", rich_help_panel=_MEASURE)]
TrustRemoteCode = Annotated[
    bool | None,
    typer.Option("--trust-remote-code", help="Run modelling code that comes with the model.", rich_help_panel=_MEASURE),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Text: a .txt, .jsonl or .parquet file, a folder of datasets' save_to_disk, or a datasets id "
        "(wikitext2 and c4 for short). Default: the topics of Python's own help.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
Objective = Annotated[
    list[str] | None,
    typer.Option(
        help="What to measure; may be repeated, the first is searched for. Default: perplexity.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
ObjectiveArg = Annotated[
    list[str] | None,
    typer.Option(
        help="Option of an objective, as name=value, or objective:name=value if there are several.",
        rich_help_panel=_MEASURE,
    ),
]
Windows = Annotated[
    int | None,
    typer.Option(
        help="Search windows. Default: 8 on a CPU, 64 on a GPU.", rich_help_panel=_MEASURE, show_default=False
    ),
]
WindowTokens = Annotated[
    int | None,
    typer.Option(help="Tokens of a window. Default: 128, on a GPU 512.", rich_help_panel=_MEASURE, show_default=False),
]
ReportWindows = Annotated[
    int | None,
    typer.Option(
        help="Windows of the report split, at least 32. Default: 32, on a GPU 128.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
DataSeed = Annotated[
    int | None,
    typer.Option(
        help="Which windows of the search split are taken. Default: 0.", rich_help_panel=_MEASURE, show_default=False
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16 or float16. Default: what suits the device.",
        rich_help_panel=_MEASURE,
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda or cuda:1. Default: a GPU if there is one.", rich_help_panel=_RUN, show_default=False),
]
Format = Annotated[
    Literal["table", "json"], typer.Option("--format", help="How the result is printed.", rich_help_panel=_RUN)
]


@app.command()
def run(
    strategy: Annotated[
        str | None,
        typer.Option(
            help="How to search: a name of `searcher list strategies`, or path/to/file.py:Class. Default: shapley.",
            rich_help_panel=_SEARCH,
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="How much to remove: 8 units, 25% of them, or 1-8 for every size between.",
            rich_help_panel=_SEARCH,
            show_default=False,
        ),
    ] = None,
    granularity: Annotated[
        Literal["block", "attention", "ffn", "sublayer"] | None,
        typer.Option(help="What the units are. Default: block.", rich_help_panel=_SEARCH, show_default=False),
    ] = None,
    strategy_arg: Annotated[
        list[str] | None, typer.Option(help="Option of the strategy, as name=value.", rich_help_panel=_SEARCH)
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Units that must stay, such as 0,1,29 or 3.attn.", rich_help_panel=_SEARCH)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the strategy. Default: 0.", rich_help_panel=_SEARCH, show_default=False)
    ] = None,
    model: Model = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = None,
    data: Data = None,
    objective: Objective = None,
    objective_arg: ObjectiveArg = None,
    windows: Windows = None,
    window_tokens: WindowTokens = None,
    report_windows: ReportWindows = None,
    data_seed: DataSeed = None,
    dtype: Dtype = None,
    max_evaluations: Annotated[
        float | None, typer.Option(help="Stop before more plans than this.", rich_help_panel=_LIMITS)
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(
            help="Stop before this cost, in layer-forward equivalents per 1,000 tokens.", rich_help_panel=_LIMITS
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            help="Stop after 90s, 30m or 2h; what is found then depends on the machine's speed.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    device: Device = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the run folder. Default: made from the configuration.",
            rich_help_panel=_RUN,
            show_default=False,
        ),
    ] = None,
    runs_dir: Annotated[
        str | None, typer.Option(help="Where run folders are. Default: runs.", rich_help_panel=_RUN, show_default=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of these options (budget: 8); options given here win.", rich_help_panel=_RUN),
    ] = None,
    output: Format = "table",
) -> None:
    """Search for the plan to remove, and judge it on text the search has not seen.

    Everything measured is kept at once in the run folder. The same command resumes an interrupted run, and shows a
    finished one again without measuring anything.

    Example: [b]searcher run --strategy greedy --budget 25% --keep 0,1 --max-evaluations 200[/b]
    """
    import searcher
    from searcher.config import read_config_file

    given = {
        "strategy": strategy, "budget": budget, "granularity": granularity, "keep": keep, "seed": seed,
        "max_evaluations": max_evaluations, "max_cost": max_cost, "timeout": timeout, "name": name,
        "runs_dir": runs_dir,
    }  # fmt: skip
    given |= _measurement(locals())
    options = (read_config_file(config) if config else {}) | {k: v for k, v in given.items() if v is not None}
    if strategy_arg:
        named = {_field(name): value for name, value in _pairs("--strategy-arg", strategy_arg)}
        options["strategy_args"] = _joined(options.get("strategy_args"), named)
    if objective_arg:
        args = _objective_args(objective_arg, options.get("objective"))
        options["objective_args"] = _joined(options.get("objective_args"), args)
    finished = searcher.run(**options)
    if output == "json":
        _print_json(finished.document())
    else:
        from results.table import run_lines, show

        show(*run_lines(finished))


@app.command()
def evaluate(
    plan: Annotated[
        list[str], typer.Option(help="What to remove, such as 3-5,9 or 12.attn or dense; may be repeated.")
    ],
    split: Annotated[Literal["report", "search"], typer.Option(help="Part of the text to measure on.")] = "report",
    model: Model = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = None,
    data: Data = None,
    objective: Objective = None,
    objective_arg: ObjectiveArg = None,
    windows: Windows = None,
    window_tokens: WindowTokens = None,
    report_windows: ReportWindows = None,
    data_seed: DataSeed = None,
    dtype: Dtype = None,
    device: Device = None,
    output: Format = "table",
) -> None:
    """Measure plans by hand.

    Example: [b]searcher evaluate --plan dense --plan 3-5,9 --plan 12.attn[/b]
    """
    import searcher

    options = {k: v for k, v in _measurement(locals()).items() if v is not None}
    if objective_arg:
        options["objective_args"] = _objective_args(objective_arg, objective)
    document = searcher.evaluate(plan, split=split, **options)
    if output == "json":
        _print_json(document)
    else:
        from results.table import evaluations_table, show

        show(evaluations_table(document, split))


@app.command("list")
def list_(
    what: Annotated[Literal["strategies", "objectives", "runs"], typer.Argument(help="What to list.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what each does, and every option.")] = False,
    runs_dir: Annotated[str, typer.Option(help="Where run folders are.")] = "runs",
) -> None:
    """List the strategies and objectives there are, or the runs you have made."""
    check_own_packages()
    from results.listing import plugin_lines, run_lines
    from results.table import show

    if what == "runs":
        show(*run_lines(Path(runs_dir)))
    else:
        show(*plugin_lines("strategy" if what == "strategies" else "objective", verbose))


def _measurement(arguments: dict[str, Any]) -> dict[str, Any]:
    names = (
        "model", "revision", "trust_remote_code", "data", "objective", "windows", "window_tokens", "report_windows",
        "data_seed", "dtype", "device",
    )  # fmt: skip
    return {name: arguments[name] for name in names}


def _pairs(option: str, texts: list[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, _) in zip(texts, pairs, strict=True):
        if not (name and equals):
            raise UsageError(f"{option} '{text}' is not name=value", f"Write it as {option} name=value")
    return [(name.strip(), value) for name, _, value in pairs]


def _field(option: str) -> str:
    return option.replace("-", "_")


def _joined(file: Any, given: dict[str, Any]) -> Any:
    """Options of a configuration file with those given on the command line, which win, also one level down."""
    if file is None:
        return given
    if not isinstance(file, dict):
        return file  # is refused with all else that does not fit
    return file | {name: _joined(file.get(name), v) if isinstance(v, dict) else v for name, v in given.items()}


def _objective_args(texts: list[str], objectives: str | list[str] | None) -> dict[str, dict[str, str]]:
    """Options by objective; a name without `objective:` before it goes to the only objective there is."""
    names = [objectives] if isinstance(objectives, str) else objectives or ["perplexity"]
    found: dict[str, dict[str, str]] = {}
    for name, value in _pairs("--objective-arg", texts):
        owner, colon, option = name.rpartition(":")
        if not colon and len(names) > 1:
            raise UsageError(
                f"--objective-arg '{name}={value}' could be meant for any of {', '.join(names)}",
                f"Write it as {names[0]}:{name}={value}",
            )
        found.setdefault(owner if colon else names[0], {})[_field(option)] = value
    return found


def _print_json(document: dict[str, Any]) -> None:
    from searcher.measurement import to_plain_json

    json.dump(to_plain_json(document), sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


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
    except OSError as error:  # the disk is full, say
        code = _complain(f"Error: {error}", kept, 1)
    sys.exit(code)


def _complain(message: str, hint: str, code: int) -> int:
    message = " ".join(message.split("\n"))  # of an exception of somebody else's, say
    sys.stderr.write(f"{message}\n  {hint}\n" if hint else f"{message}\n")
    return code
