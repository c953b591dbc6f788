"""What every benchmark can be told on the command line: model, text, size, and where its figures go."""

import inspect
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from searcher.errors import UsageError

RESULTS = Path(__file__).parent / "results"
"""The figures of the project, as JSON; `benchmarks/README.md` is made of them."""


@dataclass(frozen=True)
class Setting:
    """What is measured, and on how much text: the options of every benchmark.

    Attributes:
        out: where figures are written, None for nowhere.
    """

    model: Annotated[str | None, typer.Option(help="Another model: a hub id, folder or .gguf file.")] = None
    data: Annotated[str | None, typer.Option(help="Another text: a file, folder or `datasets` id.")] = None
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32; auto: what is faster here.")] = "auto"
    device: Annotated[str, typer.Option(help="cpu, cuda, xpu and so on; auto: an accelerator if there is one.")] = (
        "auto"
    )
    windows: Annotated[int, typer.Option(help="Search windows.")] = 8
    window_tokens: Annotated[int, typer.Option(help="Tokens of each of them.")] = 128
    quick: Annotated[
        bool, typer.Option("--quick", help="To try it: a quarter of the text, and the least of all else. No figures.")
    ] = False
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for figures as JSON. Default: benchmarks/results if model, text and size are the defaults."
        ),
    ] = None

    @property
    def of_the_project(self) -> bool:
        """Whether the figures are those that the project shows."""
        return self.out == RESULTS

    @property
    def run_options(self) -> dict[str, Any]:
        """The same for `searcher.run`."""
        return {name: getattr(self, name) for name in ("model", "data", "dtype", "device", "windows", "window_tokens")}


def resolved(given: Setting, defaults: Setting) -> Setting:
    """A setting as it is run: sizes cut if it is quick, and the project's own figures only of what they are made of."""
    out = given.out
    if given == replace(defaults, dtype=given.dtype, device=given.device):
        out = RESULTS
    if not given.quick:
        return replace(given, out=out)
    return replace(given, out=out, windows=max(1, given.windows // 4), window_tokens=max(2, given.window_tokens // 4))


def command(main: Callable[..., None], defaults: Setting, without: Collection[str] = ()) -> Callable[..., None]:
    """The command line of a benchmark: options for its first parameter, a setting, then for those of its own.

    Args:
        main: the benchmark; its docstring is the help.
        defaults: the setting where nothing is given.
        without: parts of the setting that it does not use, and that cannot be given therefore.
    """
    hints = get_type_hints(Setting, include_extras=True)
    shared = [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=getattr(defaults, f.name), annotation=hints[f.name]
        )
        for f in fields(Setting)
        if f.name not in without
    ]
    _, *own = inspect.signature(main).parameters.values()

    def run(**given: Any) -> None:
        setting = replace(defaults, **{one.name: given.pop(one.name) for one in shared})
        main(resolved(setting, defaults), **given)

    every = [*shared, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]
    paragraphs = (inspect.getdoc(main) or "").split("\n\n")
    run.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # folded where it is shown
    run.__annotations__ = {one.name: one.annotation for one in every}
    run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    return run


def start(cli: Callable[..., None]) -> None:
    """What `python -m benchmarks.NAME` does; a user's mistake is told in one line."""
    try:
        typer.run(cli)
    except UsageError as error:
        typer.echo(f"Error: {error.message}\n  {error.hint}", err=True)
        sys.exit(2)
