"""What the parts of a model take: parameters, bytes of weights and key-value cache, FLOPs. Measured, no tables."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from searcher.architecture.packed_weights import as_plain_products, count_bytes, count_parameters
from searcher.contracts.amounts import Amounts
from searcher.replay.relative_flops import count_flops
from searcher.replay.repair import ReplacementModule
from searcher.replay.replay import Replay


def measure_amounts(replay: Replay, tokens: int) -> dict[str, Amounts]:
    """The amounts by the names of the objectives that show them; one that cannot be told for this model is left out.

    - `parameters` and `weights-bytes`: of the modules as loaded, weights that are tied counted once; packed ones as
      the parameters that they stand for, and as the bytes that they take with their scales. Removing a
      sublayer saves its attention or FFN module; the norms around it stay.
    - `kv-cache`: bytes that a cached forward keeps for each token of context, over a context of this many tokens; a
      sliding window or a recurrent state takes less for each token of a longer one.
    - `flops`: of a forward over this many tokens, for each token: matrix products, those of attention scores (all
      pairs of positions) and of the output head among them.

    Args:
        replay: the model; use under `torch.inference_mode()`.
        tokens: length of the sequence.
    """
    ids = torch.zeros((1, tokens), dtype=torch.int64, device=replay.model.device)
    found = {
        "parameters": _of_modules(replay, count_parameters),
        "weights-bytes": _of_modules(replay, count_bytes),
        "kv-cache": _of_cache(replay, ids),
        "flops": _of_flops(replay, ids),
    }
    return {name: amounts for name, amounts in found.items() if amounts is not None}


def measure_added(amounts: Mapping[str, Amounts], after: Iterable[ReplacementModule]) -> dict[str, float]:
    """What modules that stand after blocks add to each amount: those of a repair, or those that it will have.

    A block takes what the one does that it is like; any other module keeps no cache, and its matrices are used once for
    each token.

    Args:
        amounts: of the model.
        after: the modules; they may be on the device `meta`.
    """
    replacements = tuple(after)
    modules = [one.module for one in replacements]
    likes = [one.like for one in replacements if one.like is not None]
    matrices = [p.numel() for one in replacements if one.like is None for p in one.module.parameters() if p.dim() == 2]
    found = {"parameters": float(count_parameters(modules)), "weights-bytes": float(count_bytes(modules))}
    for name in ("kv-cache", "flops"):
        found[name] = sum(amounts[name].block[like] for like in likes) if name in amounts else 0.0
    found["flops"] += 2.0 * sum(matrices)
    return {name: found[name] for name in amounts}


def _of_modules(replay: Replay, count: Any) -> Amounts:
    architecture = replay.architecture
    return Amounts(
        whole=count([replay.model]),
        block=tuple(count([block]) for block in architecture.blocks),
        attention=tuple(count([module] if module else []) for module in architecture.attention),
        ffn=tuple(count([module] if module else []) for module in architecture.ffn),
    )


def _of_cache(replay: Replay, ids: Tensor) -> Amounts | None:
    try:
        cache = replay.model(input_ids=ids, use_cache=True).past_key_values
        layers = [cache_bytes(layer) / ids.shape[1] for layer in cache.layers]
    except (RuntimeError, TypeError, AttributeError, LookupError, ValueError):  # a family that keeps no such cache
        return None
    if len(layers) != replay.num_blocks:
        return None
    owned = zip(layers, replay.architecture.attention, strict=True)
    attention = tuple(size if module else 0.0 for size, module in owned)
    return Amounts(sum(layers), tuple(layers), attention, (0.0,) * len(layers))


def cache_bytes(layer: Any) -> int:
    """Bytes of the keys, values and states that one layer of a transformers cache holds; counters are none."""
    tensors = (value for value in vars(layer).values() if isinstance(value, Tensor) and value.is_floating_point())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _of_flops(replay: Replay, ids: Tensor) -> Amounts | None:
    hidden, tokens = replay.embed(ids), ids.shape[1]
    block, attention, ffn = ([0.0] * replay.num_blocks for _ in range(3))
    with sdpa_kernel([SDPBackend.MATH]):  # torch counts the scores of no other way on a CPU
        for parts in count_flops(replay, hidden):
            for i in parts.blocks:
                block[i], attention[i], ffn[i] = parts.whole / tokens, parts.attention / tokens, parts.ffn / tokens
        with as_plain_products(replay.model), FlopCounterMode(display=False) as counter:
            replay.model(input_ids=ids, use_cache=False)
    total = counter.get_total_flops() / tokens
    return Amounts(total, tuple(block), tuple(attention), tuple(ffn)) if total else None
