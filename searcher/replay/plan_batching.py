"""How many plans should go through a block together, where one alone has too few tokens to keep the device busy."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from searcher.architecture.devices import computes_on_cpu, synchronize
from searcher.contracts.plan import Action
from searcher.replay.batching import group_tokens
from searcher.replay.replay import Replay

Item = TypeVar("Item")


BatchSizes = tuple[int, ...]
"""Numbers of plans that may run together, descending; the last is 1."""


def batch_sizes(replay: Replay, ids: Tensor) -> BatchSizes:
    """How many plans' states are best run as one batch of rows: weights are then read once for all.

    Tried, not guessed: batching must be faster, and on a CPU every block and the head must give the same bits as one
    plan at a time, which depends on the shapes and the dtype. Use under `torch.inference_mode()`.

    Args:
        replay: the model.
        ids: int64 (rows, tokens), the sequences that each plan is replayed on.

    Returns:
        `(1,)` where nothing is won, and where one plan fills the device.
    """
    room = group_tokens(ids.device.type) // ids.numel()
    powers = [1 << power for power in range(1, room.bit_length())]
    return (*(count for count in reversed(powers) if _pays(replay, ids, count)), 1)


def in_sizes(items: Sequence[Item], sizes: BatchSizes) -> Iterator[Sequence[Item]]:
    """The items cut into pieces of these sizes, the largest first."""
    for size in sizes:
        while len(items) >= size:
            yield items[:size]
            items = items[size:]


def _pays(replay: Replay, ids: Tensor, count: int) -> bool:
    replay.embed(ids.repeat(count, 1))  # records the other arguments of the blocks for this shape
    states = [replay.embed(ids.roll(shift, dims=1)) for shift in range(count)]  # as different as those of plans
    alone, together = 0.0, 0.0
    for block in range(replay.num_blocks):
        started = _now(replay)
        after = [replay.run_block(state, block, Action.KEEP) for state in states]
        between = _now(replay)
        batched = replay.run_block(torch.cat(states), block, Action.KEEP)
        alone, together = alone + between - started, together + _now(replay) - between
        if not _same(torch.cat(after), batched):
            return False
        states = after
    losses = torch.cat([replay.head.losses(state, ids) for state in states])
    return together < alone and _same(losses, replay.head.losses(torch.cat(states), ids.repeat(count, 1)))


def _same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit on a CPU; elsewhere nothing promises that, and rounding must do."""
    return torch.equal(one, other) if computes_on_cpu(one.device) else torch.allclose(one, other, rtol=2e-2, atol=2e-2)


def _now(replay: Replay) -> float:
    synchronize(*replay.devices)
    return time.perf_counter()
