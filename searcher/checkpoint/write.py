"""Writing the files of a checkpoint: weights, config, tokenizer, and what else belongs to the model."""

import contextlib
import errno
import json
import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from searcher.architecture.custom_model import NOTES, write_notes
from searcher.checkpoint.forms import Notes
from searcher.checkpoint.target import files_in
from searcher.loading.pretrained import BROKEN, quietly

TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")
"""Names of files that must go with a model."""
GENERATION = "generation_config.json"
TEMPLATES = "additional_chat_templates"
COMPANIONS = (
    GENERATION,
    "*processor_config.json",
    "chat_template*",
    f"{TEMPLATES}/*",
    "tokenizer.model",
    "*.tiktoken",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
"""Names of files that belong to the tokenizer, the processor or generation, which pruning leaves as they are."""
TOKENIZER = ("tokenizer*", "*.model")
"""Names of further files of tokenizers."""
CODE = ("*.py",)
"""Names of files with code that comes with a model."""


def write_model(folder: Path, model: Any, dtype: torch.dtype, tokenizer: Any) -> None:
    """Write weights, config, tokenizer and generation config.

    Args:
        folder: an empty one.
        model: as :func:`searcher.checkpoint.forms.in_form` gives it.
        dtype: of most of its weights.
        tokenizer: of the model.
    """
    with quietly(), _full_disks_as_such():
        with _plain_generation(model):
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")  # not that of the first weight
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def copy_tokenizer(source: Path, folder: Path, tokenizer: Any, load: Callable[[Path], Any]) -> None:
    """Copy the files of a tokenizer as they are; save it where they do not give the same tokenizer again.

    Args:
        source: the folder that it was loaded from.
        folder: where to.
        tokenizer: of the model.
        load: gives the tokenizer of a folder.
    """
    for path in sorted({path for pattern in TOKENIZER for path in source.glob(pattern) if path.is_file()}):
        shutil.copyfile(path, folder / path.name)
    copy_companions(source, folder)
    try:
        with quietly():
            copied = load(folder)
        same = copied.get_vocab() == tokenizer.get_vocab() and copied.chat_template == tokenizer.chat_template
    except BROKEN:  # it needs a file of another name
        same = False
    if not same:
        tokenizer.save_pretrained(folder)


def copy_code(source: Path, folder: Path) -> None:
    """Copy the code that a config names, of the model, its config or its tokenizer."""
    for path in sorted(path for pattern in CODE for path in source.glob(pattern) if path.is_file()):
        shutil.copyfile(path, folder / path.name)


@contextlib.contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """transformers refuses to write a generation config that it finds at odds with itself, though it has read it."""
    own = model.generation_config
    try:
        try:
            own.validate(strict=True)
        except ValueError:
            model.generation_config = GenerationConfig()
        yield
    finally:
        model.generation_config = own


def note(folder: Path, notes: Notes, more: dict[str, Any]) -> None:
    """Write `searcher.json`, with these JSON values and the names of all files, after everything else is there."""
    write_notes(folder, {**notes.to_json(), **more, "files": sorted({*files_in(folder), NOTES})})


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what belongs to the model that was pruned and was not written anew: license, processor, chat templates.

    The generation config is copied as it is, over what transformers made of it.
    """
    for path in (path for place in (source, source / TEMPLATES) for path in sorted(place.glob("*")) if path.is_file()):
        name = path.relative_to(source)
        terms = any(fnmatch(path.name.upper(), pattern) for pattern in TERMS) and len(name.parts) == 1
        belongs = terms or any(fnmatch(str(name), pattern) for pattern in COMPANIONS)
        if belongs and (path.name == GENERATION or not (folder / name).exists()):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)


@contextlib.contextmanager
def _full_disks_as_such() -> Iterator[None]:
    """safetensors tells of a full disk in an error of its own."""
    try:
        yield
    except Exception as error:
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device") from error
        raise
