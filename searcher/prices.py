"""What the parts of a model cost, counted in floating-point operations."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from searcher.architecture import alike
from searcher.cost import Prices
from searcher.errors import UsageError
from searcher.replay import Replay


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
    for block, like_it in alike(replay.architecture, replay.model.config.get_text_config(decoder=True)).items():
        modules = (replay.architecture.attention[block], replay.architecture.ffn[block])
        whole = count_block_flops(replay, hidden, block, [])
        without = [whole if m is None else count_block_flops(replay, hidden, block, [m]) for m in modules]
        total += whole * len(like_it)
        attention += (whole - without[0]) * len(like_it)
        ffn += (whole - without[1]) * len(like_it)
    head = _head_flops(replay, hidden, ids)
    if not (total and head):
        raise UsageError(
            f"The FLOPs of {type(replay.model).__name__} cannot be counted, so that costs would be meaningless",
            "Load the model with plain weights, not quantised ones",
        )
    return Prices((1.0, 1 - attention / total, 1 - ffn / total, 0.0), head * replay.num_blocks / total)


def count_block_flops(replay: Replay, hidden: Tensor, block: int, removed: list[torch.nn.Module]) -> int:
    """FLOPs of a block without these sublayers, on the given hidden states."""
    with FlopCounterMode(display=False) as counter:
        replay.run_block_without(hidden, block, removed)
    return int(counter.get_total_flops())


def _head_flops(replay: Replay, hidden: Tensor, ids: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        replay.head.losses(hidden, ids)
    return int(counter.get_total_flops())
