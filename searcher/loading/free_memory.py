"""How much memory this process may have, and how amounts of it are told."""

import math

import torch

from searcher.architecture.devices import bytes_taken, bytes_to_take

RESERVE = 256 << 20
"""Bytes left for what is not counted: the interpreter's objects, and memory that the allocator keeps for itself."""


def default_limit(device: torch.device) -> int:
    """Bytes that this process may have where nothing else is said."""
    return bytes_taken(device) + bytes_to_take(device)


def format_bytes(amount: float) -> str:
    """For a message, such as 1.2 GiB."""
    return f"{amount / (1 << 30):.2g} GiB" if amount >= 1 << 30 else f"{math.ceil(amount / (1 << 20))} MiB"
