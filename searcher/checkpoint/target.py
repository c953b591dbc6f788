"""The folder of a new checkpoint: what may be there already, and that it is there whole in the end or not at all."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from searcher.architecture.custom_model import read_notes
from searcher.errors import UsageError, first_line

PARTIAL = ".searcher-partial-"
"""What the names of unfinished checkpoints begin with, before the name and the process that writes it."""


def check_target(target: Path, force: bool, source: str | Path | None = None) -> None:
    """Refuse a folder that must not be replaced, or cannot be made.

    Args:
        target: where a checkpoint is to be.
        force: whether a checkpoint may be replaced.
        source: the model that is pruned, which may be a folder.

    Raises:
        UsageError: it exists and `force` is not given, it is that of the model, or it holds what `searcher export` did
            not write; or nothing can be written there.
    """
    if os.path.lexists(target):
        if source is not None and _same(Path(source).expanduser(), target):
            raise UsageError(f"{target} is the model that is pruned and will not be replaced", "Choose another folder")
        if not force:
            raise UsageError(f"{target} exists", "Choose another folder, or replace it with --force")
        if reason := _not_ours(target):
            raise UsageError(f"{target} will not be replaced: {reason}", "Choose another folder, or remove it yourself")
    try:
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=_existing(target.absolute().parent)):
            pass
    except OSError as error:
        raise _unwritable(target, error) from error


def _same(source: Path, target: Path) -> bool:
    """Whether both are one folder, by whatever spelling or link."""
    try:
        return source.samefile(target)
    except OSError:  # the model is a hub id, or the target a broken link
        return False


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.parents) if os.path.lexists(one))


def _not_ours(target: Path) -> str:
    """Why a folder may hold more than we wrote; empty if it does not: all that is in it will be lost."""
    if target.is_symlink():
        return "it is a link"
    if not target.is_dir():
        return "it is no folder"
    notes = read_notes(target)
    if not notes:
        return "it is no checkpoint of searcher export, which has a searcher.json"
    ours = {Path(name) for name in notes.get("files", ())}
    folders = {folder for path in ours for folder in path.parents}
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target)
        if path.is_symlink() or name not in (folders if path.is_dir() else ours):
            return f"it holds {name}, which searcher export did not write"
    return ""


def files_in(folder: Path) -> list[str]:
    """The names of all files in a folder and those in it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def new_folder(target: Path, force: bool) -> Iterator[Path]:
    """A folder beside the target, which takes its place if all goes well and is removed if not.

    Raises:
        UsageError: see :func:`check_target`; or the disk is full or cannot be written to.
    """
    target = Path(os.path.abspath(target))
    partial = target.parent / f"{PARTIAL}{target.name}-{os.getpid()}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        check_target(target, force)  # what a killed process was about to replace may be there again
        partial.mkdir()
        yield partial
        check_target(target, force)  # it may have come into being meanwhile
        _put_in_place(partial, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> UsageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UsageError(f"The disk of {target.parent} is full", "Make room; nothing was left there")
    return UsageError(f"{target} cannot be written ({error.strerror or first_line(error)})", "Choose another folder")


def check_room(target: Path, needed: int) -> None:
    """Refuse a disk that has no room for so many bytes.

    Raises:
        UsageError: it has less.
    """
    place = _existing(target.absolute())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UsageError(
            f"The checkpoint takes about {needed / 1e9:.2f} GB, and the disk of {place} has {free / 1e9:.2f} GB free",
            "Make room, or choose another folder",
        )


def _put_in_place(partial: Path, target: Path) -> None:
    old = partial.with_name(f"{partial.name}-old")
    if target.exists():
        target.rename(old)
    try:
        partial.rename(target)
    except BaseException:  # Ctrl-C too
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove what a killed process has left of the same checkpoint; put back what it was about to replace."""
    ours = re.compile(re.escape(f"{PARTIAL}{target.name}-") + r"(\d+)(-old)?")
    for left in list(target.parent.iterdir()):
        found = ours.fullmatch(left.name)  # and not what was left of `small-2` where `small` is written
        if found is None or psutil.pid_exists(int(found[1])):
            continue
        if found[2] and not target.exists():
            left.rename(target)
        else:
            shutil.rmtree(left, ignore_errors=True)
