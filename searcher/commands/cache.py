"""What the cache folder holds, by kind; only what can be computed again in minutes is cleared."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from searcher.errors import UsageError
from searcher.loading.embedded import cache_dir
from searcher.replay.dense_cache import location, open_memory, size_limit

KINDS = {
    "dense": "what was computed on dense models",
    "models": "converted GGUF files",
    "embedded": "the default model, as it was fetched",
    "sha256": "hashes of large files",
}
"""Folders of the cache, and what they hold."""


@dataclass(frozen=True)
class Kind:
    """A folder of the cache.

    Attributes:
        folder: where.
        what: it holds.
        entries: how many.
        bytes: of all of them.
        limit: bytes that they may take; None for any number.
    """

    folder: Path
    what: str
    entries: int
    bytes: int
    limit: int | None = None


def cache_contents() -> Iterator[Kind]:
    """The folders of the cache, whether they are there or not.

    Raises:
        UsageError: the limit is no size.
    """
    for name, what in KINDS.items():
        folder = cache_dir() / name
        files = [path for path in folder.rglob("*") if path.is_file()]
        if name == "dense":
            entries = [path for path in files if path.name == "output.pkl"]
        else:
            entries = list(folder.iterdir()) if folder.is_dir() else []
        yield Kind(folder, what, len(entries), sum(map(_size, files)), size_limit() if name == "dense" else None)


def clear_dense() -> None:
    """Delete what was computed on dense models, and nothing else.

    Raises:
        UsageError: it cannot be deleted.
    """
    if not location().exists():
        return
    try:
        open_memory().clear(warn=False)
    except OSError as error:
        raise UsageError(f"{location()} cannot be cleared ({error})", "Delete that folder yourself") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another process has just deleted it
        return 0
