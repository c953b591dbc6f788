"""What the cache folder holds, for the terminal."""

from collections.abc import Iterable, Iterator

from rich.markup import escape
from rich.table import Table

from searcher.commands.cache import Kind


def cache_lines(kinds: Iterable[Kind]) -> Iterator[Table | str]:
    """A row for each kind of thing that is kept, and how to be rid of it."""
    table = Table(box=None, pad_edge=False)
    for column in ("what", "entries", "size", "at most", "folder"):
        table.add_column(
            column, justify="right" if column in ("entries", "size", "at most") else "left", overflow="fold"
        )
    for kind in kinds:
        most = "" if kind.limit is None else _megabytes(kind.limit) if kind.limit else "nothing is kept"
        table.add_row(kind.what, f"{kind.entries:,}", _megabytes(kind.bytes), most, escape(str(kind.folder)))
    yield table
    yield "--clear deletes the first kind; it is computed again when it is needed. The others: delete their folders."


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
