"""Checkpoints that are no ordinary ones: quantised, with an adapter beside them, or of an encoder-decoder.

All of it is read from small files, before any weight is.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import FineGrainedFP8Config, Mxfp4Config

from searcher.errors import UsageError, first_line
from searcher.loading.quantised import ORIGINAL, Packing, check_packing, read_packing, runs_here

ADAPTER = "adapter_config.json"
"""The file by which transformers knows an adapter, which it applies without a word to the weights beside it."""
DEQUANTISED = {"fp8": FineGrainedFP8Config, "mxfp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}
"""Methods whose weights transformers turns into ordinary ones while it loads them, if it is told to."""
PACKED_KEY = "quantization_config"
PACKED_KEYS = {PACKED_KEY: "", "compression_config": "compressed-tensors", "quantization": "MLX"}
"""Keys of a config that say how weights are packed, and by what if they do not name it."""
PACKED_FILES = {
    "quantize_config.json": "AutoGPTQ",
    "quant_config.json": "AutoAWQ",
    "hf_quant_config.json": "ModelOpt",
    "qmodel.pt": "HQQ",
}
"""The same of files that some tools write beside a config that says nothing."""

_MERGE = "peft.AutoPeftModelForCausalLM.from_pretrained('FOLDER').merge_and_unload().save_pretrained('MERGED')"


def refuse_adapter(folder: Path, name: str) -> None:
    """Refuse a folder with an adapter in it.

    Args:
        folder: of the checkpoint.
        name: of the model, for messages.

    Raises:
        UsageError: it holds an adapter, alone or beside the weights of a model.
    """
    if not (folder / ADAPTER).is_file():
        return
    if (folder / "config.json").is_file():
        raise UsageError(
            f"Model '{name}' has an adapter of peft ({ADAPTER}) beside its weights",
            f"Move {ADAPTER} away to take the model without the adapter, or merge both: {_MERGE}",
        )
    raise UsageError(
        f"Model '{name}' is an adapter of peft, without the model that it is for",
        f"Merge both, and save the tokenizer with them: {_MERGE}",
    )


def loading_options(folder: Path, name: str, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is to be told of this checkpoint: to dequantise it, where it is not run as it is.

    Args:
        folder: of the checkpoint.
        name: of the model, for messages.
        device: where it is to run.

    Raises:
        UsageError: the weights are packed in a way that cannot be run here, or are not those of a decoder-only model,
            or the config is none.
    """
    config = read_config(folder, name)
    if config.get("is_encoder_decoder"):
        raise UsageError(
            f"Model '{name}' cannot be loaded as a causal LM: it is an encoder-decoder ({config.get('model_type')})",
            "Pass a decoder-only model",
        )
    found = _packing(config)
    if found is not None:
        key, packing = found
        if packing.method in DEQUANTISED and not _as_it_is(packing, device):
            return {"quantization_config": DEQUANTISED[packing.method](dequantize=True)}
        if key != PACKED_KEY:
            raise UsageError(f"Model '{name}' is quantised by {packing}, which transformers does not load", ORIGINAL)
        check_packing(packing, device, name)
        return {}
    for file, by in PACKED_FILES.items():
        if (folder / file).is_file():
            raise UsageError(
                f"Model '{name}' is quantised by {by}, and its config.json does not say how",
                f"{ORIGINAL}, or delete {file} if its weights are not quantised",
            )
    return {}


def find_packing(folder: Path, name: str, device: torch.device) -> Packing | None:
    """What packs the weights of a checkpoint that is run as it is; None if they are plain, or are made so.

    Args:
        folder: of the checkpoint.
        name: of the model, for messages.
        device: where it is to run.

    Raises:
        UsageError: the config is none.
    """
    found = _packing(read_config(folder, name))
    return found[1] if found is not None and _as_it_is(found[1], device) else None


def _packing(config: dict[str, Any]) -> tuple[str, Packing] | None:
    """The key under which a config tells of packed weights, and how they are packed."""
    for part in (config, config.get("text_config")):
        for key, by in PACKED_KEYS.items():
            if isinstance(part, dict) and part.get(key) is not None:
                return key, read_packing(part[key], by)
    return None


def packed_by(folder: Path, config: dict[str, Any]) -> str:
    """By what the weights of a checkpoint are packed, by its config or files beside it; empty if they are not."""
    if (found := _packing(config)) is not None:
        return found[1].method
    return next((by for file, by in PACKED_FILES.items() if (folder / file).is_file()), "")


def _as_it_is(packing: Packing, device: torch.device) -> bool:
    """Whether it is run packed: of those that can be dequantised FP8 alone, where the GPU and its library can."""
    if packing.method in DEQUANTISED:
        return packing.method == "fp8" and runs_here(packing, device) and not packing.missing
    return True


def in_one_dtype(model: Any, dtype: torch.dtype) -> None:
    """Give weights that were dequantised, which come in the dtype of their scales, that of the others."""
    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not any(part in name for part in kept):
            weight.data = weight.data.to(dtype)


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The content of a checkpoint's `config.json`.

    Raises:
        UsageError: it cannot be read, or is no JSON object.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        reason = "it is no JSON object"
    except (OSError, ValueError, RecursionError) as error:
        config, reason = None, first_line(error)
    if not isinstance(config, dict):
        raise UsageError(
            f"Model '{name}' cannot be loaded as a causal LM: its config.json cannot be read ({reason})",
            "Save or fetch the model again",
        )
    return config
