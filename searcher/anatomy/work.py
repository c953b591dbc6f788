"""How every part works: on one core, on windows in fixed groups, telling somebody how far it is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from searcher.crew import one_core
from searcher.groups import GROUP_TOKENS

Done = Callable[[float], None]
"""Told what share of the work has just been done; the shares add up to 1."""


def ignore(_share: float) -> None:
    """For those who do not want to be told."""


@contextmanager
def at_work() -> Iterator[None]:
    """Without gradients, on one core, so that sums are made in the same order on every machine with this processor."""
    with torch.inference_mode(), one_core():
        yield


def in_groups(ids: Tensor) -> Sequence[Tensor]:
    """The windows as an evaluator runs them together, so that losses are the same to the last bit.

    Args:
        ids: int64 (windows, tokens).
    """
    tokens = GROUP_TOKENS.get(ids.device.type, GROUP_TOKENS["cpu"])
    return torch.split(ids, max(1, tokens // ids.shape[1]))
