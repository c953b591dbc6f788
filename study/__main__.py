"""The command of the study: measures what is not known yet, then writes tables, pictures and page."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from searcher.errors import UsageError
from study.conduct import conduct
from study.page import write_page
from study.setting import Setting
from study.texts import write_texts
from study.tiers import TIERS

ROOT = Path(__file__).parent.parent


def main(
    tier: Annotated[
        Literal["a", "b"], typer.Option(help="a: an hour on 2 cores with AMX, over two without; b: many hours.")
    ] = "a",
    prose: Annotated[Path | None, typer.Option(help="Text to search on, in place of the news articles.")] = None,
    choices: Annotated[Path | None, typer.Option(help="Multiple-choice items, in place of the grammar items.")] = None,
    model: Annotated[str | None, typer.Option(help="Another model: hub id, folder or .gguf file.")] = None,
    runs_dir: Annotated[Path | None, typer.Option(help="Where its runs are. Default: runs/study-a or -b.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="The page; tables and pictures go to a folder of its name beside it.")
    ] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Only write the page again, from its tables.")] = False,
) -> None:
    """Where is greedy removal wrong on SmolLM2-135M, by how much, and how sure is that?

    Everything measured is kept at once: the same command goes on where it was interrupted.
    """
    page = page or ROOT / "docs" / ("study.md" if tier == "a" else f"study-{tier}.md")
    data = page.parent / page.stem
    if not draw:
        folder = runs_dir or Path("runs") / f"study-{tier}"
        options = {"model": model} if model else {}
        setting = Setting(TIERS[tier], folder, write_texts(folder / "texts", prose, choices), options)
        conduct(setting, data, prose, choices)
    write_page(data, page, ROOT / "README.md" if page == ROOT / "docs" / "study.md" else None)
    Console(stderr=True).print(f"Wrote {page} and the folder {data}", soft_wrap=True)


if __name__ == "__main__":
    try:
        typer.run(main)
    except UsageError as error:
        sys.exit(f"Error: {error.message}\n  {error.hint}")
