"""How much memory measuring takes, and how a limit on it is kept."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from searcher.architecture.blocks import alike
from searcher.architecture.devices import bytes_taken, memory_of
from searcher.contracts.plan import Action
from searcher.errors import UsageError
from searcher.loading.free_memory import RESERVE, default_limit, format_bytes
from searcher.replay.replay import Replay

MOST_PLANS = 1 << 16
"""Plans of one batch that memory is reckoned for; more cost one hidden state for each doubling."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that one evaluator takes on one group, beside the weights.

    Attributes:
        state: a hidden state.
        working: all that one block, or the head with its loss, allocates, as if nothing of it were freed.
        num_blocks: of the model.
    """

    state: int
    working: int
    num_blocks: int

    @property
    def needed(self) -> int:
        """For states at open branchings, those entering and leaving a block, and what a block allocates."""
        return int((3 + math.log2(MOST_PLANS)) * self.state + self.working)

    @property
    def path(self) -> int:
        """For the states along one plan's path, until it is known whether they are worth keeping."""
        return self.num_blocks * self.state


@dataclass(frozen=True)
class Room:
    """What fits a limit: so many evaluators, and so many bytes of states kept between asks."""

    evaluators: int
    kept: int


def measure_footprint(replay: Replay, tokens: int, group_tokens: int) -> Footprint:
    """Reckon an evaluator's memory from one window; use under `torch.inference_mode()`.

    Args:
        replay: the model.
        tokens: of a window.
        group_tokens: of the largest group, which takes as many times more.
    """
    ids = torch.zeros((1, tokens), dtype=torch.int64, device=replay.model.device)
    hidden = replay.embed(ids)
    kinds = alike(replay.architecture, replay.model.config.get_text_config(decoder=True))
    blocks = [_allocated(partial(replay.run_block, hidden, block, Action.KEEP)) for block in kinds]
    working = max(*blocks, _allocated(lambda: replay.head.losses(hidden, ids)))
    times = group_tokens / tokens
    return Footprint(math.ceil(hidden.nbytes * times), math.ceil(working * times), replay.num_blocks)


def find_room(footprint: Footprint, limit: int | None, device: torch.device, cores: int) -> Room:
    """How many evaluators, up to the number of cores, and how many kept states the limit leaves room for.

    Args:
        footprint: of one evaluator.
        limit: bytes that this process may take in all, on an accelerator that it may take there; by default a quarter
            of what is free, on an accelerator nine tenths.
        device: where the model is.
        cores: how many evaluators there may be at most.

    Raises:
        UsageError: not even one evaluator fits.
    """
    taken, limit = bytes_taken(device), default_limit(device) if limit is None else limit
    room = limit - taken - RESERVE
    evaluators = max(0, min(cores, room // (footprint.needed + footprint.path)))
    if evaluators:
        left = room - evaluators * (footprint.needed + footprint.path)
        return Room(evaluators, left)
    if room >= footprint.needed:  # fewer at a time, which keep nothing
        return Room(max(1, min(cores, room // footprint.needed)), 0)
    raise UsageError(
        f"Memory of {format_bytes(limit)} is not enough{'' if device.type == 'cpu' else f' on {device}'}: "
        f"{format_bytes(taken)} are taken and an evaluator needs {format_bytes(footprint.needed + RESERVE)}",
        "Raise --memory, or lower --window-tokens",
    )


def find_room_on_all(footprint: Footprint, limit: int | None, places: Sequence[torch.device], cores: int) -> Room:
    """The same for a model that is spread over devices, of which each may take the limit.

    The states along a path lie where the blocks are that they come after. Those kept between asks may come to lie all
    on one device: so there are as many as fit the fullest.

    Args:
        footprint: of one evaluator.
        limit: see :func:`find_room`; for each device.
        places: the device of each block.
        cores: how many evaluators there may be at most.

    Raises:
        UsageError: not even one evaluator fits; it names the device.
    """
    blocks = Counter(places)
    rooms = [find_room(replace(footprint, num_blocks=blocks[place]), limit, place, cores) for place in blocks]
    return Room(min(room.evaluators for room in rooms), min(room.kept for room in rooms))


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches the tensors that operations return in memory of their own.

    Attributes:
        bytes: of all of them.
        largest: bytes of the largest.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {memory_of(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        returned = {memory_of(t): t for t in tree_leaves(result) if isinstance(t, Tensor)}
        sizes = [t.untyped_storage().nbytes() for place, t in returned.items() if place not in given]
        self.bytes += sum(sizes)
        self.largest = max(self.largest, *sizes, 0)
        return result


def _allocated(run: Callable[[], object]) -> int:
    with Allocations() as allocations:
        run()
    return int(allocations.bytes)
