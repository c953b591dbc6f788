"""How much memory there is, and how much of it this process has."""

import math

import psutil
import torch

RESERVE = 256 << 20
"""Bytes left for what is not counted: the interpreter's objects, and memory that the allocator keeps for itself."""


def taken_bytes(device: torch.device) -> int:
    """Bytes that this process has now, on a GPU those that it has there."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def free_bytes(device: torch.device) -> int:
    """Bytes that nobody has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def default_limit(device: torch.device) -> int:
    """Bytes that this process may have where nothing else is said: a quarter more of what is free, on a GPU 90%."""
    share = 0.9 if device.type == "cuda" else 0.25
    return taken_bytes(device) + int(share * free_bytes(device))


def format_bytes(amount: float) -> str:
    """For a message, such as 1.2 GiB."""
    return f"{amount / (1 << 30):.2g} GiB" if amount >= 1 << 30 else f"{math.ceil(amount / (1 << 20))} MiB"
