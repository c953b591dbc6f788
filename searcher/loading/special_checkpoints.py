"""Checkpoints that are no ordinary ones: quantised, with an adapter beside them, or of an encoder-decoder.

All of it is read from small files, before any weight is.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import FineGrainedFP8Config, Mxfp4Config

from searcher.errors import UsageError, first_line

ADAPTER = "adapter_config.json"
"""The file by which transformers knows an adapter, which it applies without a word to the weights beside it."""
DEQUANTISED = {"fp8": FineGrainedFP8Config, "mxfp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}
"""Methods whose weights transformers turns into ordinary ones while it loads them, if it is told to."""
PACKED_KEYS = {"quantization_config": "", "compression_config": "compressed-tensors", "quantization": "MLX"}
"""Keys of a config that say how weights are packed, and by what if they do not name it."""
PACKED_FILES = {
    "quantize_config.json": "AutoGPTQ",
    "quant_config.json": "AutoAWQ",
    "hf_quant_config.json": "ModelOpt",
    "qmodel.pt": "HQQ",
}
"""The same of files that some tools write beside a config that says nothing."""

_MERGE = "peft.AutoPeftModelForCausalLM.from_pretrained('FOLDER').merge_and_unload().save_pretrained('MERGED')"
_ORIGINAL = "Pass the checkpoint that it was made from"


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


def loading_options(folder: Path, name: str) -> dict[str, Any]:
    """What `from_pretrained` is to be told of this checkpoint: to dequantise it, where transformers can.

    Args:
        folder: of the checkpoint.
        name: of the model, for messages.

    Raises:
        UsageError: the weights are packed, or not those of a decoder-only model, or the config is none.
    """
    config = read_config(folder, name)
    if config.get("is_encoder_decoder"):
        raise UsageError(
            f"Model '{name}' cannot be loaded as a causal LM: it is an encoder-decoder ({config.get('model_type')})",
            "Pass a decoder-only model",
        )
    for part in (config, config.get("text_config")):
        for key, by in PACKED_KEYS.items():
            if isinstance(part, dict) and part.get(key) is not None:
                return _dequantised(part[key], by, name)
    for file, by in PACKED_FILES.items():
        if (folder / file).is_file():
            raise _packed(name, by, f"{_ORIGINAL}, or delete {file} if its weights are not quantised")
    return {}


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


def _dequantised(how: Any, by: str, name: str) -> dict[str, Any]:
    """Options that turn the weights into ordinary ones."""
    how = how if isinstance(how, dict) else {}
    method = str(how.get("quant_method") or by or "a method it does not name")
    if method in DEQUANTISED:
        return {"quantization_config": DEQUANTISED[method](dequantize=True)}
    bits = how.get("bits") or (4 if how.get("load_in_4bit") else 8 if how.get("load_in_8bit") else None)
    itself = ", or save what model.dequantize() of transformers gives, and its tokenizer"
    hint = _ORIGINAL + (itself if method == "bitsandbytes" else "")
    raise _packed(name, f"{method} ({bits} bits)" if bits else method, hint)


def _packed(name: str, by: str, hint: str) -> UsageError:
    reason = "parts of packed weights can be neither removed, healed nor saved"
    return UsageError(f"Model '{name}' is quantised by {by}, and {reason}", hint)
