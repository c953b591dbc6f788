"""GGUF files: dequantised once, and kept as an ordinary checkpoint in the cache."""

import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from searcher.embedded import cache_dir, file_sha256
from searcher.errors import UsageError, first_line
from searcher.pretrained import BROKEN, check_weights, quietly


def convert_gguf(path: Path) -> tuple[Path, str]:
    """Dequantise a GGUF file into the cache, unless it is there; safe against a second process doing the same.

    Returns:
        The folder with the model in float32 safetensors and its tokenizer, and the sha256 of the GGUF file.

    Raises:
        UsageError: the file cannot be read, or the cache not be written.
    """
    digest = file_sha256(path)
    target = cache_dir() / "models" / digest[:16]
    if not target.is_dir():
        temporary = _temporary_folder(target)
        try:
            _save_dequantised(path, temporary)
            _move_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target, digest


def _temporary_folder(target: Path) -> Path:
    """A new folder beside `target`, on the same disk, so that it can be renamed to it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    except OSError as error:
        raise UsageError(
            f"The cache folder {cache_dir()} cannot be written: {first_line(error)}", "Set SEARCHER_CACHE to another"
        ) from error


def _save_dequantised(path: Path, folder: Path) -> None:
    """Write the weights of a GGUF file as float32 safetensors, with config and tokenizer.

    Raises:
        UsageError: transformers cannot read the file.
    """
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    hint = "It may be damaged, or of an architecture that transformers cannot read from GGUF"
    # its dequantiser asks nobody before it draws a progress bar, so that only stderr can hush it
    with quietly(), contextlib.redirect_stderr(io.StringIO()):
        try:
            model, info = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(**where)
        except BROKEN as error:
            raise UsageError(f"GGUF file '{path}' cannot be read: {first_line(error)}", hint) from error
        check_weights(model, info, str(path))
        _forget_quantisation(model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _forget_quantisation(model: Any) -> None:
    """The weights are plain float32 by now; while it thinks them quantised, a model refuses to be saved."""
    del model.config.quantization_config
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        model.__dict__.pop(attribute, None)


def _move_folder(temporary: Path, target: Path) -> None:
    temporary.chmod(0o755)  # mkdtemp makes folders that only the owner can read
    try:
        os.replace(temporary, target)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same content
            raise
