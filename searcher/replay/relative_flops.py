"""What the parts of a model cost, counted in floating-point operations."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from searcher.architecture.blocks import alike
from searcher.architecture.packed_weights import as_plain_products
from searcher.contracts.cost import Prices
from searcher.errors import UsageError
from searcher.replay.replay import Replay


def measure_prices(replay: Replay, tokens: int) -> Prices:
    """Count the FLOPs of one window of this many tokens; an average over the blocks, which may differ.

    Counted are matrix products; torch counts those of attention scores on a GPU only, so that a CPU counts a few
    percent less for attention. Use under `torch.inference_mode()`.

    Raises:
        UsageError: torch counts nothing at all.
    """
    ids = torch.zeros((1, tokens), dtype=torch.int64, device=replay.model.device)
    hidden = replay.embed(ids)
    total, attention, ffn = 0, 0, 0
    for parts in count_flops(replay, hidden):
        total += parts.whole * len(parts.blocks)
        attention += parts.attention * len(parts.blocks)
        ffn += parts.ffn * len(parts.blocks)
    head = _head_flops(replay, hidden, ids)
    if not (total and head):
        raise UsageError(
            f"The FLOPs of {type(replay.model).__name__} cannot be counted, so that costs would be meaningless",
            "Load the model with plain weights, not quantised ones",
        )
    return Prices((1.0, 1 - attention / total, 1 - ffn / total, 0.0), head * replay.num_blocks / total)


@dataclass(frozen=True)
class BlockFlops:
    """FLOPs of blocks that are built alike, each on the same hidden states.

    Attributes:
        blocks: their numbers.
        whole: of one of them.
        attention: what it saves without its attention, 0 if it has none.
        ffn: what it saves without its FFN, 0 if it has none.
    """

    blocks: list[int]
    whole: int
    attention: int
    ffn: int


def count_flops(replay: Replay, hidden: Tensor) -> Iterator[BlockFlops]:
    """FLOPs of every kind of block and of its sublayers, on (rows, tokens, hidden size) states."""
    architecture = replay.architecture
    for block, like_it in alike(architecture, replay.model.config.get_text_config(decoder=True)).items():
        modules = (architecture.attention[block], architecture.ffn[block])
        whole = _block_flops(replay, hidden, block, [])
        saved = [0 if m is None else whole - _block_flops(replay, hidden, block, [m]) for m in modules]
        yield BlockFlops(like_it, whole, *saved)


def _block_flops(replay: Replay, hidden: Tensor, block: int, removed: list[torch.nn.Module]) -> int:
    with as_plain_products(replay.architecture.blocks[block]), FlopCounterMode(display=False) as counter:
        replay.run_block_without(hidden, block, removed)
    return int(counter.get_total_flops())


def _head_flops(replay: Replay, hidden: Tensor, ids: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        replay.head.losses(hidden, ids)
    return int(counter.get_total_flops())
