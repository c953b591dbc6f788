"""What the study reads, made of what the project installs: prose, a reference manual, program code, multiple choice.

- prose: the 300 news articles of the Lee background corpus (Lee, Pincombe & Welsh 2005, "An empirical evaluation of
  models of text document similarity", Proc. CogSci 27), which the wheel of gensim carries for its own tests;
- manual: the topics of Python's own help, the default text of searcher;
- code: modules of Python's standard library;
- choices: minimal pairs of English grammar, see `grammar`.
"""

import json
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from searcher.errors import UsageError
from study.grammar import items

LONGEST, SHORTEST = 60_000, 4_000
"""Characters of a module that is taken as code."""
ITEMS_EACH = 48
"""Multiple-choice items of each phenomenon; half of them are for searching, half for the report."""


@dataclass(frozen=True)
class Texts:
    """Where the study's texts are.

    Attributes:
        prose: news articles, or the text that was given.
        manual: None, which is the embedded text.
        code: Python modules.
        choices: multiple-choice items.
    """

    prose: str
    manual: None
    code: str
    choices: str


def write_texts(folder: Path, prose: Path | None, choices: Path | None) -> Texts:
    """Write the texts as JSON lines, unless others are given.

    Raises:
        UsageError: the package with the prose is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return Texts(
        str(prose or _write(folder / "prose.jsonl", ({"text": article} for article in news()))),
        None,
        str(_write(folder / "code.jsonl", ({"text": module} for module in modules()))),
        str(choices or _write(folder / "choices.jsonl", items(ITEMS_EACH))),
    )


def news() -> list[str]:
    """The articles of the Lee background corpus, from gensim's wheel; gensim itself is not imported."""
    package = find_spec("gensim")
    if package is None or package.origin is None:
        raise UsageError(
            "The study's prose comes with the package gensim, which is not installed",
            "pip install --no-deps gensim==4.4.0, run `make study`, or give a text of your own with --prose FILE",
        )
    file = Path(package.origin).parent / "test" / "test_data" / "lee_background.cor"
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def modules() -> list[str]:
    """Every third module of the standard library that is neither very short nor very long, in the order of names."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    sources = (path.read_text(encoding="utf-8") for path in paths if not path.stem.startswith("_"))
    return [source for source in sources if SHORTEST <= len(source) <= LONGEST][::3]


def _write(path: Path, rows: Iterable[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
