"""How many token sequences are run together."""

from collections.abc import Sequence

import torch
from torch import Tensor

GROUP_TOKENS = {"cpu": 512, "accelerator": 32768}
"""Tokens run together: enough to keep one core, or an accelerator, busy. Fixed by the kind of device, not by memory or
the number of cores, so that a run is repeatable: matrix products of another shape round differently."""


def group_tokens(device_type: str) -> int:
    """Tokens run together on this kind of device."""
    return GROUP_TOKENS["cpu" if device_type == "cpu" else "accelerator"]


def rows_together(tokens: int, device_type: str) -> int:
    """How many rows of so many tokens are run together."""
    return max(1, group_tokens(device_type) // tokens)


def in_groups(rows: Tensor) -> Sequence[Tensor]:
    """(rows, tokens, …), ids or states, in the groups that are run together on the device where they are."""
    return torch.split(rows, rows_together(rows.shape[1], rows.device.type))
