"""What memory holds while weights are streamed, and what that makes of a round of plans."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from searcher.architecture.devices import bytes_free, bytes_taken, computes_on_cpu
from searcher.errors import UsageError
from searcher.evaluation.memory import Footprint
from searcher.loading.free_memory import RESERVE, default_limit, format_bytes
from searcher.loading.weight_store import AT_WORK, WeightStore

HOST_SHARE = 0.5
"""Of the host's free memory, for states that wait there for a GPU."""


@dataclass(frozen=True)
class StreamingRoom:
    """What fits a limit.

    Attributes:
        evaluators: threads.
        states: bytes of hidden states that wait at a block at a time; plans that need more go in several sweeps.
        staying: parts of the model that stay in memory.
        parts: how many there are.
        reading: bytes that a sweep through the other parts reads from the disk.
        ask: bytes of states of the largest ask that is reckoned with.
    """

    evaluators: int
    states: int
    staying: tuple[str, ...]
    parts: int
    reading: int
    ask: int

    @property
    def sweeps(self) -> int:
        """In how many parts the largest ask goes through the model."""
        return math.ceil(self.ask / self.states)

    def __str__(self) -> str:
        times = "one sweep" if self.sweeps == 1 else f"{self.sweeps} sweeps"
        waiting, room = format_bytes(self.ask), format_bytes(self.states)
        return (
            f"Weights are streamed: {len(self.staying)} of {self.parts} parts of the model stay in memory, others are "
            f"read in every sweep ({format_bytes(self.reading)}). A first round of greedy has {waiting} of states; "
            f"there is room for {room}, so it takes {times}"
        )


def find_streaming_room(
    footprint: Footprint, limit: int | None, device: torch.device, cores: int, store: WeightStore, ask: int
) -> StreamingRoom:
    """Share out memory: first to the parts at work, then to the states of an ask, then to parts that may stay.

    States come before parts that stay: with S bytes of states, W of weights and R of room, r of it for states, an ask
    reads `(S / r) (W - (R - r))`, which falls with r until all states fit. Neither do states wait on the disk: that
    would write and read what does not fit at every block, against one more reading of the weights, and so pay only for
    less than half a block's bytes.

    Args:
        footprint: of one evaluator on the largest group.
        limit: bytes that this process may take in all, on a GPU that it may take there; None for the default.
        device: where the model computes.
        cores: how many evaluators there may be at most.
        store: the weights.
        ask: bytes of states of the largest ask to reckon with.

    Raises:
        UsageError: not even one plan on one group fits.
    """
    limit = default_limit(device) - store.held_bytes if limit is None else limit
    room = limit - bytes_taken(device) + store.held_bytes - RESERVE - _at_work(store)
    each = 3 * footprint.state + footprint.working
    on_host = not computes_on_cpu(device)
    least = 0 if on_host else 2 * footprint.state
    evaluators = min(cores, (room - least) // each)
    if evaluators < 1:
        raise UsageError(
            f"Memory of {limit >> 20:,} MiB is not enough: with weights streamed, "
            f"{(limit - room + each + least >> 20) + 1:,} MiB are needed",
            "Raise --memory, or lower --window-tokens",
        )
    left = room - evaluators * each
    if on_host:
        states, staying = int(HOST_SHARE * bytes_free(torch.device("cpu"))), _staying(store, left)
    else:
        staying = _staying(store, left - max(min(left, ask), least))
        states = left - sum(map(store.bytes, staying))
    reading = sum(store.stored_bytes(part) for part in store.parts if part not in staying)
    return StreamingRoom(int(evaluators), states, staying, len(store.parts), reading, ask)


def _at_work(store: WeightStore) -> int:
    """Bytes of the largest parts that are in memory together, and of what is converted to become one of them."""
    sizes = sorted((store.bytes(part) for part in store.parts), reverse=True)
    largest = max(store.parts, key=store.bytes)
    converted = store.stored_bytes(largest) if store.stored_bytes(largest) != store.bytes(largest) else 0
    return sum(sizes[:AT_WORK]) + converted


def _staying(store: WeightStore, room: int) -> tuple[str, ...]:
    """Parts that fit together, spread over the model, so that there is time to read between them."""
    order: list[str] = []
    for part in _spread(store.parts):
        if store.bytes(part) <= room:
            room -= store.bytes(part)
            order.append(part)
    return tuple(part for part in store.parts if part in order)


def _spread(parts: Sequence[str]) -> list[str]:
    """The last one, which every plan needs, then the others by their number with its bits in reverse."""
    digits = len(parts).bit_length()
    reverse = sorted(range(len(parts) - 1), key=lambda number: f"{number:0{digits}b}"[::-1])
    return [parts[-1], *(parts[number] for number in reverse)]
