"""Files of ours and of users: whole or not at all, through links, and into devices and pipes as they are."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from searcher.errors import UsageError
from searcher.runs.stdout import result_stream

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a disk says that is full, or a user who has had his share of it."""
_HINTS = {
    errno.ENOENT: "Name a file in a folder that exists",
    errno.ENOTDIR: "Name a file in a folder that exists",
    errno.EISDIR: "Name a file, not a folder",
    **dict.fromkeys(FULL, "The disk is full: make room, or write to another one"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Name a file in a folder that you may write to"),
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what shall be at this path once it is complete; nothing is left if writing it fails.

    A regular file is at every moment either the old one or the new one, whole; where the path is a link, that is the
    file it leads to. A device or a pipe, and whatever stdout goes to, stays what it is and is written into.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if is_stdout(path) or (path.exists() and not path.is_file()):
        with tempfile.TemporaryDirectory() as scratch:
            temporary = Path(scratch) / path.name
            yield temporary
            _pour(temporary, path)
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _settle(temporary, target)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The same for a file that a user has named.

    Raises:
        UsageError: it cannot be written, with the reason and what to do.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: OSError) -> UsageError:
    """What to tell a user whose file or folder cannot be written."""
    return UsageError(f"{path} cannot be written ({error.strerror or error})", hint_of(error))


def hint_of(error: OSError, place: str = "") -> str:
    """What to do about it: `place` says how to choose another one, where that is no matter of naming a file."""
    known = _HINTS.get(error.errno or 0, "Name another file")
    return known if error.errno in FULL or not place else place


def is_stdout(path: Path) -> bool:
    """Whether the path leads to where this process prints: what is written there must go after what was."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:  # there is no such file yet, or no stdout
        return False


def _pour(temporary: Path, path: Path) -> None:
    if is_stdout(path):
        result_stream().flush()
        with temporary.open("rb") as source, os.fdopen(os.dup(1), "wb") as sink:
            shutil.copyfileobj(source, sink)
        return
    with temporary.open("rb") as source, path.open("wb") as sink:
        shutil.copyfileobj(source, sink)


def _settle(temporary: Path, target: Path) -> None:
    """Wait until the disk has it, and let those read it who could read the file it replaces."""
    with temporary.open("r+b") as file:
        os.fsync(file.fileno())
    if target.exists():
        shutil.copymode(target, temporary)
