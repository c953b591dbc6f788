"""How every part works: on one core, telling somebody how far it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from searcher.evaluation.executor import one_core

Done = Callable[[float], None]
"""Told what share of the work has just been done; the shares add up to 1."""


def ignore(_share: float) -> None:
    """For those who do not want to be told."""


@contextmanager
def at_work() -> Iterator[None]:
    """Without gradients, on one core, so that sums are made in the same order on every machine with this processor."""
    with torch.inference_mode(), one_core():
        yield
