"""The command line. stdout is the result, stderr the progress; exit 0 done, 1 failed, 2 bad usage, 130 interrupted."""

import sys
from typing import Annotated, NoReturn

import typer

from searcher.cli.analyze import analyze
from searcher.cli.cache import cache
from searcher.cli.compare import compare
from searcher.cli.convert import convert
from searcher.cli.evaluate import evaluate
from searcher.cli.export import export
from searcher.cli.heal import heal
from searcher.cli.help_text import Command, Commands
from searcher.cli.listing import list_
from searcher.cli.report import report
from searcher.cli.run import run
from searcher.errors import UsageError
from searcher.runs.files import FULL

app = typer.Typer(
    name="searcher",
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would double the time that help takes
    context_settings={"max_content_width": 120},
    epilog="Start with:  searcher run --strategy shapley --budget 8",
)


def _show_version(asked: bool) -> None:
    if asked:
        from searcher.runs.versions import DISTRIBUTION, versions

        typer.echo(f"searcher {versions()['searcher']} (package {DISTRIBUTION})")
        raise typer.Exit


@app.callback()
def searcher(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Search for prune plans of large language models: which blocks, attention or FFN sublayers to remove."""


for one in (run, evaluate, heal, export, analyze, convert, compare, report, list_, cache):  # as the help lists them
    app.command(one.__name__.rstrip("_"), cls=Command)(one)


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
