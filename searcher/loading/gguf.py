"""GGUF files: dequantised once, and kept as an ordinary checkpoint in the cache."""

import contextlib
import io
import json
import re
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from gguf import GGUFReader
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from searcher.errors import UsageError, first_line
from searcher.loading.embedded import cache_dir, file_sha256
from searcher.loading.pretrained import BROKEN, check_weights, heads_ahead, quietly

MANIFEST = "searcher-cache.json"
"""The file of a conversion that says how long each of the others is."""
_BLOCK = re.compile(r"blk\.(\d+)\.")
_PART = re.compile(r"-\d{5}-of-(\d{5})$")


def convert_gguf(path: Path) -> tuple[Path, str]:
    """Dequantise a GGUF file into the cache, unless it is there whole.

    Of processes that want the same one makes it, and the others wait. A conversion that is not whole is made again.

    Returns:
        The folder with the model in float32 safetensors and its tokenizer, and the sha256 of the GGUF file.

    Raises:
        UsageError: the file cannot be read, or the cache not be written.
    """
    _refuse_other_files(path)
    digest = file_sha256(path)
    target = cache_dir() / "models" / digest[:16]
    if not _is_whole(target):
        try:
            for folder in (target.parent, cache_dir() / "locks"):
                folder.mkdir(parents=True, exist_ok=True)
            with FileLock(cache_dir() / "locks" / f"{target.name}.lock"):
                if not _is_whole(target):
                    _convert(path, target)
        except (OSError, SafetensorError) as error:  # safetensors tells of a full disk in an error of its own
            raise UsageError(
                f"The cache folder {cache_dir()} cannot be written: {first_line(error)}",
                "Make room or mend it, or set SEARCHER_CACHE to another",
            ) from error
    return target, digest


def _refuse_other_files(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        hint = "Give a file you may read"
        raise UsageError(f"GGUF file '{path}' cannot be read: {first_line(error)}", hint) from error
    if start != b"GGUF":
        raise UsageError(
            f"GGUF file '{path}' cannot be read: it is empty or no GGUF file, which begins with those letters",
            "Fetch it again, or pass a folder or hub id of a model in another format",
        )
    if part := _PART.search(path.stem):
        raise UsageError(
            f"GGUF file '{path}' is one of {int(part[1])} parts", "Merge them with: llama-gguf-split --merge"
        )


def _is_whole(folder: Path) -> bool:
    """Whether a conversion has all the files that it was finished with, each as long as it was."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["bytes"]
        return "config.json" in sizes and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _convert(path: Path, target: Path) -> None:
    """Make a conversion beside its place, on the same disk, and then put it there; the lock is held."""
    for left in target.parent.glob(f"{target.name}-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    try:
        _save_dequantised(path, temporary)
        sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps({"bytes": sizes}, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes folders that only the owner can read
        if target.is_dir():  # not whole
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save_dequantised(path: Path, folder: Path) -> None:
    """Write the weights of a GGUF file as float32 safetensors, with config and tokenizer.

    Raises:
        UsageError: transformers cannot read the file.
    """
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    hint = "Fetch it again, for it may be cut short; or transformers does not know its architecture"
    # its dequantiser asks nobody before it draws a progress bar, so that only stderr can hush it
    with quietly(), contextlib.redirect_stderr(io.StringIO()):
        try:
            model, info = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except BROKEN as error:
            reason = "it ends too soon" if isinstance(error, struct.error) else first_line(error)
            raise UsageError(f"GGUF file '{path}' cannot be read: {reason}", hint) from error
        check_weights(model, info, str(path))
        _refuse_further_blocks(path, model)
        _forget_quantisation(model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _refuse_further_blocks(path: Path, model: Any) -> None:
    """transformers reads as many blocks as the file's metadata says, and leaves further ones out without a word."""
    numbers = (_BLOCK.match(tensor.name) for tensor in GGUFReader(path).tensors)
    held = max((int(found[1]) + 1 for found in numbers if found), default=0)
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    if held > count + heads_ahead(model):
        raise UsageError(
            f"GGUF file '{path}' has {count} blocks by its metadata, but holds weights of {held}",
            "Fetch or convert it again",
        )


def _forget_quantisation(model: Any) -> None:
    """The weights are plain float32 by now; while it thinks them quantised, a model refuses to be saved."""
    del model.config.quantization_config
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        model.__dict__.pop(attribute, None)
