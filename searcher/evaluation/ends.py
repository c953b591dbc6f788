"""The states of plans after the last block, kept until each plan is measured."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from searcher.contracts.trie import Leaves, Path


class Ends:
    """States by path; a state that has been given out is not kept any longer.

    Args:
        states: (rows, tokens, hidden size) by path, in the memory of the device or of the host.
        keep: whether they are kept nevertheless, for others who need the same.
    """

    def __init__(self, states: dict[Path, Tensor], keep: bool = False) -> None:
        self._states, self._keep = states, keep

    def leaves(self, paths: Sequence[Path], begin: Callable[[], int], device: torch.device) -> Iterator[Leaves[Tensor]]:
        """As :func:`searcher.contracts.trie.walk` would give them.

        Args:
            paths: distinct, all of them there.
            begin: how many to give out next; 0 ends it.
            device: where they are wanted.
        """
        done = 0
        while count := begin():
            here = range(done, done + count)
            yield Leaves(here, [self._give(paths[position]).to(device) for position in here], {})
            done += count

    def _give(self, path: Path) -> Tensor:
        return self._states[path] if self._keep else self._states.pop(path)
