"""The weights that are in memory at a time: the part at work, the one read ahead for it, and those that may stay."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from searcher.errors import UsageError, first_line
from searcher.loading.lazy_checkpoint import LazyCheckpoint, Part

AT_WORK = 2
"""Parts in memory beside those that stay: one that runs, one that is being read."""


class WeightStore:
    """Reads parts of a checkpoint when they are asked for, and the one that comes next while they are at work.

    Several threads may use it at once; all modules that are copies of one another share their weights.

    Args:
        checkpoint: where they are read from.
        parts: all that may be asked for, in the order in which a forward asks for them.

    Attributes:
        bytes_read: so far, from the files.
    """

    def __init__(self, checkpoint: LazyCheckpoint, parts: Sequence[Part]) -> None:
        self.bytes_read = 0
        self.parts = tuple(parts)
        self._checkpoint, self._route = checkpoint, self.parts
        self._staying: frozenset[Part] = frozenset()
        self._held: dict[Part, Future[Mapping[str, Tensor]]] = {}  # in the order in which they were last asked for
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="weights")

    def __deepcopy__(self, memo: dict[int, Any]) -> "WeightStore":
        return self  # copies of a model read from the same place

    def tensors(self, part: Part) -> Mapping[str, Tensor]:
        """The weights of a part; the next one on the way is then read already.

        Raises:
            UsageError: they cannot be read, or are not finite.
        """
        with self._lock:
            waiting = self._hold(part)
            self._held[part] = self._held.pop(part)
            self._read_ahead(part)
        return waiting.result()

    def stored_bytes(self, part: Part) -> int:
        """Bytes of a part in the files."""
        return self._checkpoint.stored_bytes(part)

    def bytes(self, part: Part) -> int:
        """Bytes of a part in memory."""
        return self._checkpoint.bytes(part)

    @property
    def held_bytes(self) -> int:
        """Bytes of the parts that are in memory now, or about to be."""
        return sum(map(self.bytes, tuple(self._held)))

    @contextmanager
    def on_the_way(self, route: Sequence[Part]) -> Iterator[None]:
        """For as long as a `with` statement lasts, parts will be asked for in this order, again and again."""
        before, self._route = self._route, tuple(route)
        try:
            yield
        finally:
            self._route = before

    def keep(self, parts: Sequence[Part]) -> None:
        """From now on these parts stay in memory once they have been read."""
        with self._lock:
            self._staying = frozenset(parts)

    def let_go(self) -> None:
        """Have nothing in memory, until something is asked for again."""
        with self._lock:
            for part in self._held:
                self._reader.submit(self._checkpoint.give_back, part)
            self._held.clear()

    def _hold(self, part: Part) -> "Future[Mapping[str, Tensor]]":
        """Begin to read a part, unless that has been done; what was not asked for longest makes room."""
        if part not in self._held:
            if part not in self._staying:
                passing = [held for held in self._held if held not in self._staying]
                for longest_ago in passing[: max(0, len(passing) - AT_WORK + 1)]:
                    del self._held[longest_ago]
                    self._reader.submit(self._checkpoint.give_back, longest_ago)
            self._held[part] = self._reader.submit(self._read, part)
        return self._held[part]

    def _read_ahead(self, part: Part) -> None:
        if part not in self._route:
            return
        place = self._route.index(part) + 1
        following = (*self._route[place:], *self._route[: place - 1])
        there = self._staying & self._held.keys()
        if (next_one := next((one for one in following if one not in there), None)) is not None:
            self._hold(next_one)

    def _read(self, part: Part) -> Mapping[str, Tensor]:
        try:
            tensors = self._checkpoint.read(part)
        except (OSError, SafetensorError) as error:
            raise UsageError(
                f"The weights of '{part}' cannot be read from {self._checkpoint.folder}: {first_line(error)}",
                "Put the file back as it was; the same command then goes on where it was",
            ) from error
        self.bytes_read += self._checkpoint.stored_bytes(part)
        return tensors
