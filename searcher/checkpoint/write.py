"""Writing a checkpoint: whole and verified, or not at all."""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from searcher.checkpoint.custom import write_notes
from searcher.checkpoint.forms import Notes
from searcher.errors import UsageError, first_line
from searcher.pretrained import quietly

PARTIAL = ".searcher-partial-"
"""What the names of unfinished checkpoints begin with, before the name and the process that writes it."""
FOLDERS = ("additional_chat_templates", "__pycache__", ".cache")
"""Folders that transformers, Python and the hub's client leave in a checkpoint."""
TERMS = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")
"""How the names of files begin that must go with a model."""


def check_target(target: Path, force: bool, source: Path | None = None) -> None:
    """Refuse a folder that must not be replaced.

    Args:
        target: where a checkpoint is to be.
        force: whether a checkpoint may be replaced.
        source: folder of the model that is pruned, if it is in one.

    Raises:
        UsageError: it exists and `force` is not given, it is that of the model, or it is no checkpoint.
    """
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise UsageError(f"{target} exists", "Choose another folder, or replace it with --force")
    if source is not None and source.resolve() == target.resolve():
        raise UsageError(f"{target} is the model that is pruned and will not be replaced", "Choose another folder")
    if reason := _no_checkpoint(target):
        raise UsageError(f"{target} is no checkpoint and will not be replaced: {reason}", "Choose another folder")


def _no_checkpoint(target: Path) -> str:
    """Why a folder may hold more than a checkpoint; empty if it does not: all that is in it will be lost."""
    if target.is_symlink():
        return "it is a link"
    try:
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "it has no config.json of a model"
    if not isinstance(config, dict) or "model_type" not in config:
        return "its config.json is not that of a model"
    others = sorted(path.name for path in target.iterdir() if path.is_dir() and path.name not in FOLDERS)
    return f"it holds the folder {others[0]}" if others else ""


@contextlib.contextmanager
def new_folder(target: Path, force: bool) -> Iterator[Path]:
    """A folder beside the target, which takes its place if all goes well and is removed if not.

    Raises:
        UsageError: see :func:`check_target`; or the disk is full or cannot be written to.
    """
    check_target(target, force)
    target = target.absolute()
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
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UsageError(f"The disk of {target.parent} is full", "Make room; nothing was left there") from error
        raise UsageError(f"{target} cannot be written ({first_line(error)})", "Choose another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_room(target: Path, needed: int) -> None:
    """Refuse a disk that has no room for so many bytes.

    Raises:
        UsageError: it has less.
    """
    place = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UsageError(
            f"The checkpoint takes about {needed / 1e9:.2f} GB, and the disk of {place} has {free / 1e9:.2f} GB free",
            "Make room, or choose another folder",
        )


def write_model(folder: Path, model: Any, notes: Notes, tokenizer: Any, more: dict[str, Any]) -> None:
    """Write weights, config, tokenizer, generation config, and the notes.

    Args:
        folder: an empty one.
        model: as :func:`searcher.checkpoint.forms.in_form` gives it.
        notes: what to note with it.
        tokenizer: of the model.
        more: JSON values to keep with the notes.
    """
    with quietly(), _full_disks_as_such():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_notes(folder, {**notes.to_json(), **more})


def copy_terms(source: Path, folder: Path) -> None:
    """Copy the license and notices of the model that was pruned, if there are any."""
    for path in source.iterdir():
        if path.is_file() and path.name.upper().startswith(TERMS):
            shutil.copy(path, folder / path.name)


@contextlib.contextmanager
def _full_disks_as_such() -> Iterator[None]:
    """safetensors tells of a full disk in an error of its own."""
    try:
        yield
    except Exception as error:
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device") from error
        raise


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
