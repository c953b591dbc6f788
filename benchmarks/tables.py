"""The tables of `benchmarks/README.md`, from the figures in `benchmarks/results`: python -m benchmarks.tables."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import shown
from benchmarks.documents import write_measured
from benchmarks.setting import RESULTS

README = Path(__file__).parent / "README.md"
LEFT_OUT = ("layer-forwards as a trie", "run", "peak GiB", "plan")
"""Columns that are in the figures alone."""


def markdown(figures: dict[str, Any]) -> str:
    """A table, and below it what it was taken on."""
    columns = [name for name in figures["rows"][0] if name not in LEFT_OUT]
    sides = ["---" if isinstance(figures["rows"][0][name], str) else "---:" for name in columns]
    cells = [[shown(row[name]) for name in columns] for row in figures["rows"]]
    lines = [f"| {' | '.join(line)} |" for line in (columns, sides, *cells)]
    return "\n".join([*lines, "", f"{figures['title']}. {'; '.join(_taken_on(figures))}."])


def _taken_on(figures: dict[str, Any]) -> Iterator[str]:
    yield from (
        f"{name.replace('_', ' ')} {shown(value)}" for name, value in figures.items() if isinstance(value, float)
    )
    machine = figures["machine"]
    special = " with AMX" if machine["amx_bf16"] else ""
    yield machine["gpu"] or f"{machine['cores']} cores of {machine['processor']}{special}"
    yield f"torch {machine['torch']}"
    yield figures["date"]


def write_tables(results: Path, readme: Path) -> None:
    """Write every table that the document has a place for."""
    for path in sorted(results.glob("*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        if "rows" in figures:
            write_measured(readme, path.stem, markdown(figures))


if __name__ == "__main__":
    write_tables(RESULTS, README)
