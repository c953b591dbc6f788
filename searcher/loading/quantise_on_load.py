"""`--quantize`: the linear layers of a model's blocks in 8 or 4 bits, packed by torchao.

Embedding, output head, norms and biases stay as they are. Layer by layer, on the device where the model is to run:
a GPU needs room for the packed weights and one layer, the host for the plain model.
"""

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch
from torch import nn

from searcher.architecture.blocks import find_architecture
from searcher.errors import UsageError
from searcher.loading.quantised import is_installed

GROUPS = (128, 64, 32)
"""Weights of a row that share a scale and a zero point in 4 bits: the largest that all layers can be cut into."""
SMALL = 32
"""Layers with fewer rows or columns stay as they are: gates of experts and the like, with which nothing is won."""
LEAST_SHARE = 0.9
"""Of the weights of blocks; a user is told where fewer are packed."""

Layers = Mapping[str, nn.Linear]
"""Linear layers by their names in the model."""


def check_library(method: str) -> None:
    """Refuse `--quantize` where torchao is not installed, which is not imported for it."""
    if not is_installed("torchao"):
        raise UsageError(
            f"--quantize {method} needs torchao, which is not installed",
            'pip install "pruneplan[quantize]", or leave --quantize out',
        )


def quantise(model: Any, method: str, device: torch.device, name: str) -> tuple[str, tuple[str, ...]]:
    """Pack a model's weights in place, and bring it to the device.

    In 8 bits each row of a weight has a scale, in 4 bits each group of :data:`GROUPS` weights of a row a scale and a
    zero point, all by rounding to nearest. Activations stay in the model's dtype. Weights in 4 bits take a byte each on
    a CPU, where torchao's kernel for two in a byte is many times slower than this, and half a byte on a GPU.

    Args:
        model: a transformers causal LM with plain weights.
        method: `int8` or `int4`.
        device: where it is to run.
        name: of the model, for messages.

    Returns:
        What packs the weights, for tables and identities; and what a user should know of it.

    Raises:
        UsageError: the model has no layers that can be packed, or not in groups; or the device cannot run them.
    """
    blocks = find_architecture(model).blocks
    layers = _find_layers(model, blocks)
    if not layers:
        raise UsageError(
            f"Model '{name}' cannot be quantised: the blocks of {type(model).__name__} hold no torch.nn.Linear of "
            f"{SMALL} rows and columns or more",
            "Leave --quantize out",
        )
    group = _group(layers, name) if method == "int4" else None
    _check_dtype(model, method, device)
    packed = sum(layer.weight.numel() for layer in layers.values())
    share = packed / sum(p.numel() for p in blocks.parameters())
    _pack(model, layers, _config(group, device), device)
    how = method if group is None else f"{method} in groups of {group}"
    warnings = () if share >= LEAST_SHARE else (f"{share:.0%} of the weights of blocks are quantised, others stay",)
    return f"{how} by torchao {metadata.version('torchao')}", warnings


def _find_layers(model: nn.Module, blocks: nn.ModuleList) -> Layers:
    inside = set(blocks.modules())
    return {
        name: module
        for name, module in model.named_modules()
        if module in inside and type(module) is nn.Linear and min(module.weight.shape) >= SMALL
    }


def _group(layers: Layers, name: str) -> int:
    for group in GROUPS:
        if all(layer.in_features % group == 0 for layer in layers.values()):
            return group
    place, layer = next((n, x) for n, x in layers.items() if x.in_features % GROUPS[-1])
    raise UsageError(
        f"Model '{name}' cannot be quantised in 4 bits: rows of '{place}' have {layer.in_features} weights, which are "
        f"no groups of {' or '.join(map(str, reversed(GROUPS)))}",
        "Use --quantize int8, which needs no groups",
    )


def _check_dtype(model: Any, method: str, device: torch.device) -> None:
    if method == "int4" and device.type != "cpu" and model.dtype != torch.bfloat16:
        raise UsageError(
            f"--quantize int4 computes in bfloat16 on {device.type}, not in {str(model.dtype).removeprefix('torch.')}",
            "Add --dtype bfloat16, or use --quantize int8",
        )


def _config(group: int | None, device: torch.device) -> Any:
    """torchao's config, for weights in 8 bits where there are no groups."""
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, MappingType
    from torchao.quantization.granularity import PerGroup

    if group is None:
        return Int8WeightOnlyConfig(set_inductor_config=False)
    if device.type == "cpu":
        return IntxWeightOnlyConfig(
            torch.int4,  # type: ignore[attr-defined]  # torch does not list it
            PerGroup(group),
            MappingType.ASYMMETRIC,
        )
    return Int4WeightOnlyConfig(group, set_inductor_config=False, int4_packing_format="tile_packed_to_4d")


def _pack(model: nn.Module, layers: Layers, config: Any, device: torch.device) -> None:
    from torchao.quantization import quantize_

    chosen = set(layers.values())
    with torch.inference_mode(False), torch.no_grad():
        quantize_(model, config, filter_fn=lambda module, _: module in chosen, device=device)
        model.to(device)
