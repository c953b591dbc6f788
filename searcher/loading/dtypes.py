"""In which precision a checkpoint keeps its weights, whatever this machine computes in."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.modeling_utils import load_state_dict
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Others are those of quantised weights."""


def stored_dtype(folder: Path) -> torch.dtype | None:
    """The dtype of most numbers in a checkpoint's weights; None if it has no weights that can be looked at."""
    numbers: Counter[torch.dtype] = Counter()
    for path in weight_files(folder):
        for tensor in load_state_dict(str(path), map_location="meta").values():
            if tensor.dtype in PLAIN:
                numbers[tensor.dtype] += tensor.numel()
    return numbers.most_common(1)[0][0] if numbers else None


def weight_bytes(folder: Path, dtype: torch.dtype | None) -> int:
    """Bytes that a checkpoint's weights take in memory.

    Args:
        folder: of the checkpoint.
        dtype: what its plain weights are loaded as; None for as they are stored.
    """
    total = 0
    for path in weight_files(folder):
        for tensor in load_state_dict(str(path), map_location="meta").values():
            plain = dtype is not None and tensor.dtype in PLAIN
            total += tensor.numel() * (dtype.itemsize if dtype is not None and plain else tensor.element_size())
    return total


def restore_precision(model: nn.Module, folder: Path) -> list[str]:
    """Give a model that was loaded in one dtype its weights as they are stored, where some are of another one.

    Such a model cannot be run, only saved: layers of different dtypes do not fit together.

    Returns:
        The names of the weights that changed.
    """
    own, changed = dict(model.named_parameters()), []
    for path in (path for path in weight_files(folder) if path.suffix == ".safetensors"):
        with safe_open(path, "pt") as file:
            for name in own.keys() & set(file.keys()):
                stored = file.get_tensor(name)
                if stored.dtype in PLAIN and stored.dtype != own[name].dtype and stored.shape == own[name].shape:
                    own[name].data = stored.to(own[name].device)
                    changed.append(name)
    return sorted(changed)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads weights from."""
    for index, single in ((SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME), (WEIGHTS_INDEX_NAME, WEIGHTS_NAME)):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            content: dict[str, Any] = json.loads((folder / index).read_text(encoding="utf-8"))
            return [folder / name for name in sorted(set(content["weight_map"].values()))]
    return []
