"""How much memory this process may have, and how amounts of it are told."""

import math

import torch

from searcher.architecture.devices import bytes_taken, bytes_to_take

RESERVE = 256 << 20
"""Bytes left for what is not counted: the interpreter's objects, and memory that the allocator keeps for itself."""


def default_limit(device: torch.device) -> int:
    """Bytes that this process may have where nothing else is said."""
    return bytes_taken(device) + bytes_to_take(device)


def room_left(limit: int | None, device: torch.device) -> int:
    """Bytes that may still be taken there.

    Args:
        limit: that this process may have in all; None for the default.
        device: where.
    """
    return (default_limit(device) if limit is None else limit) - bytes_taken(device) - RESERVE


def format_bytes(amount: float) -> str:
    """For a message, such as 1.2 GiB."""
    return f"{amount / (1 << 30):.2g} GiB" if amount >= 1 << 30 else f"{math.ceil(amount / (1 << 20))} MiB"
