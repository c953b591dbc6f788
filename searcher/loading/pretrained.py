"""What all loading with transformers shares: quiet while it lasts, and only weights that fit the model, all of them."""

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import transformers
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but re-exported without saying so
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from torch import Tensor, nn

from searcher.architecture.packed_weights import FULL, parts_of
from searcher.errors import UsageError

BROKEN = (Exception,)
"""What is caught around loading alone: transformers, its readers and a checkpoint's own code may raise anything."""

LARGER = "--dtype bfloat16 or --dtype float32"
"""Dtypes that hold what float16 cannot."""

_AHEAD = ("num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules", "mtp_num_hidden_layers")
_FITTING = "pass a checkpoint whose config is that of its weights"
_MASKS = ("masked_bias", "inv_freq")  # of old checkpoints, which the model works out by itself


def check_weights(model: Any, info: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Whether a checkpoint's weights are those of its model, see :func:`check_names`, and finite.

    Raises:
        UsageError: a weight is missing, of another shape, has no place in the model, or is not finite.
    """
    left_out = check_names(model, info, name)
    refuse_not_finite(_numbers(model), name)
    return left_out


def check_names(model: Any, info: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Whether a checkpoint's weights are those of its model; transformers fills and leaves out with a warning.

    Args:
        model: as loaded, with `ignore_mismatched_sizes` if what is wrong with shapes is to be told; it may be on the
            device `meta`.
        info: what `output_loading_info` gave.
        name: of the model, for messages.

    Returns:
        What is left out without harm: parts that this class of model does not have, such as a vision tower.

    Raises:
        UsageError: a weight is missing, of another shape, or has no place in the model.
    """
    kind = type(model).__name__
    if wrong := sorted(info.get("mismatched_keys", ())):
        key, stored, wanted = wrong[0]
        raise UsageError(
            f"Model '{name}' does not fit its config.json: '{key}' is {tuple(stored)}, not {tuple(wanted)}",
            _FITTING.capitalize(),
        )
    if missing := sorted(info["missing_keys"]):
        raise UsageError(
            f"Model '{name}' holds no complete causal LM: {_some(missing)} would be random",
            "Pass a checkpoint that was saved with all of its weights, for a decoder-only model",
        )
    left_out = _left_out(model, sorted(info.get("unexpected_keys", ())), name)
    return tuple(f"Weights of '{part}' are left out: {kind} has no such part" for part in left_out)


def _left_out(model: Any, unexpected: list[str], name: str) -> list[str]:
    """The parts that unexpected weights are of, refused if they are of blocks or of parts that the model has."""
    modules, buffers = dict(model.named_modules()), {buffer for buffer, _ in model.named_buffers()}
    blocks, count = _blocks(model)
    parts: dict[str, None] = {}
    for key in unexpected:
        full = key if key.partition(".")[0] in modules else f"{model.base_model_prefix}.{key}"
        if full in buffers or key.endswith(_MASKS):
            continue
        place = _deepest(full, modules)
        part = full[len(place) :].strip(".").partition(".")[0]
        further = int(part) - count if place == blocks and part.isdigit() else None
        if further is not None and further >= heads_ahead(model):
            raise UsageError(
                f"Model '{name}' has {count} blocks by its config.json, but holds weights of more: {_some(unexpected)}",
                f"Set num_hidden_layers to what the weights are of, or {_FITTING}",
            )
        if further is None and place and not blocks.startswith(f"{place}."):
            raise UsageError(
                f"Model '{name}' has no place for {_some(unexpected)} in a {type(model).__name__} of its config.json",
                _FITTING.capitalize(),
            )
        parts[f"{place}.{part}".lstrip(".")] = None
    return list(parts)


def _blocks(model: Any) -> tuple[str, int]:
    """The name of the list of blocks, and how many there are; an empty name if it is not found."""
    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", 0)
    lists = (name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    return next(lists, ""), count


def heads_ahead(model: Any) -> int:
    """How many blocks after the last one only predict tokens further ahead, and are no part of the model itself."""
    config = model.config.get_text_config(decoder=True)
    return max((value for key in _AHEAD if isinstance(value := getattr(config, key, None), int)), default=0)


def _deepest(key: str, modules: Mapping[str, nn.Module]) -> str:
    """The module nearest to a weight among those that the model has."""
    names = key.split(".")
    return next(place for n in range(len(names) - 1, -1, -1) if (place := ".".join(names[:n])) in modules)


def refuse_not_finite(weights: Iterable[tuple[str, Any]], name: str) -> None:
    """Refuse weights, by name, that hold NaN or infinity."""
    for key, weight in weights:
        if not weight.is_floating_point() or not weight.numel():
            continue
        low, high = (float(end) for end in torch.aminmax(weight.detach()))  # in one pass, without a mask in memory
        if math.isfinite(low) and math.isfinite(high):
            continue
        if weight.dtype == torch.float16 and not math.isnan(low):
            hint = f"It is too large for float16, or damaged: try {LARGER}"
        else:
            hint = "The checkpoint is damaged: save or fetch it again"
        raise UsageError(
            f"Model '{name}' has a weight that holds {'NaN' if math.isnan(low) else 'infinity'}: '{key}'", hint
        )


def _numbers(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The floating-point weights, and the scales of packed ones, each with the name of its weight."""
    for key, weight in model.named_parameters():
        for part in (
            () if weight.device.type == "meta" else parts_of(weight)
        ):  # streamed weights are looked at when they are read
            if part.is_floating_point() and part.numel():
                yield key, part if part.element_size() >= FULL else part.float()  # torch compares none of one byte


def _some(keys: list[str]) -> str:
    return f"'{keys[0]}'" + (f" and {len(keys) - 1} others" if len(keys) > 1 else "")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No warnings and no bars of transformers while loading; bars of downloads stay: they tell why it takes long."""
    log = transformers.utils.logging
    verbosity = log.get_verbosity()
    log.set_verbosity_error()
    try:
        with without_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(verbosity)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No bars of transformers but those of downloads; for any thread, which must leave Python's warnings alone."""
    log = transformers.utils.logging
    bars, downloads = log.is_progress_bar_enabled(), not are_progress_bars_disabled()
    log.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        if bars:
            log.enable_progress_bar()
            if not downloads:
                disable_progress_bars()
