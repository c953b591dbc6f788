"""Hidden states kept from one ask to the next: along the paths of the best plans, which the next plans start like."""

import threading
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from searcher.contracts.trie import Path

Key = Hashable
"""Which token sequences the states are of."""


@dataclass
class _Kept:
    state: Tensor
    rank: tuple[int, float]  # asks ago is what counts first, then the score of the best plan that runs through it


class PrefixCache:
    """States by place and prefix within a limit; those of older asks make room first, then those of worse plans.

    A greedy round removes one unit more from the winner of the round before, whose states are here: then only what
    comes after the removed unit is run. Several threads may use it at once.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._states: dict[tuple[Key, Path], _Kept] = {}
        self._asks = 0
        self._lock = threading.Lock()

    def next_ask(self) -> None:
        """From now on what is offered is worth more than what was offered before."""
        self._asks += 1

    def get(self, place: Key, prefix: Path) -> Tensor | None:
        """The state after this prefix, if it has been kept."""
        kept = self._states.get((place, prefix))
        return None if kept is None else kept.state

    def offer(self, place: Key, path: Path, score: float, run: Mapping[Path, Tensor]) -> None:
        """Keep the states along a plan's path, as far as they are worth more than others.

        Args:
            place: where.
            path: the plan's.
            score: its score there, lower is better.
            run: states that were computed on the way to it, and perhaps to others, by prefix.
        """
        rank = (-self._asks, np.inf if np.isnan(score) else score)
        with self._lock:
            for length in range(1, len(path) + 1):
                prefix = path[:length]
                kept = self._states.get((place, prefix))
                if kept is not None:
                    kept.rank = min(kept.rank, rank)
                elif prefix in run:
                    self._states[place, prefix] = _Kept(run[prefix], rank)
                    self.bytes += run[prefix].nbytes
            self._make_room()

    def _make_room(self) -> None:
        if self.bytes <= self.limit:
            return
        for key in self._worst_first():
            self.bytes -= self._states.pop(key).state.nbytes
            if self.bytes <= 0.9 * self.limit:  # some more, so that not every plan sorts all states
                return

    def _worst_first(self) -> Iterable[tuple[Key, Path]]:
        # of equal rank the longer prefixes go first: fewer plans start like them
        return sorted(self._states, key=lambda key: (self._states[key].rank, len(key[1])), reverse=True)
