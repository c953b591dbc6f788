"""A model that does not fit one of several accelerators, spread over them block by block, by accelerate's device map.

The hooks that accelerate puts on its modules hand hidden states over where the model itself is run; a replay does so by
itself, see :mod:`searcher.replay.replay`.
"""

from typing import Any

import torch

from searcher.architecture.devices import bytes_free, seen
from searcher.errors import UsageError

FOR_WEIGHTS = 0.8
"""The share of a device's free memory that weights may take; the rest is for hidden states."""


def device_map(weights: int, first: torch.device, name: str) -> dict[str, Any]:
    """What `from_pretrained` is to be told so that a model is spread; nothing where it fits the first device.

    Args:
        weights: bytes that it takes.
        first: of the devices.
        name: of the model, for messages.

    Raises:
        UsageError: it does not fit all devices together.
    """
    room = {index: int(FOR_WEIGHTS * bytes_free(torch.device(first.type, index))) for index in range(seen()[1])}
    if weights <= room[first.index or 0]:
        return {}
    if weights > sum(room.values()):
        raise _too_large(
            name, f"its weights take {weights / 2**30:.1f} GiB, and {sum(room.values()) / 2**30:.1f} are free"
        )
    return {"device_map": "balanced", "max_memory": room}


def settle(model: Any, name: str) -> None:
    """See to it that a model that was loaded by a device map is on its devices as a whole, and can be copied.

    accelerate leaves behind what only offloaded weights need: references to tied weights, which a copy would copy too,
    and a `to` that moves the original when a copy is moved.

    Raises:
        UsageError: a part was offloaded, because a block fitted no device any more.
    """
    places = set(map(str, getattr(model, "hf_device_map", {}).values()))
    if len(places) < 2:
        return
    if places & {"cpu", "disk"}:
        raise _too_large(name, "blocks are left over")
    for module in model.modules():
        if hook := getattr(module, "_hf_hook", None):
            hook.tied_params_map = None
    model.__dict__.pop("to", None)


def _too_large(name: str, reason: str) -> UsageError:
    return UsageError(
        f"Model '{name}' does not fit the accelerators together: {reason}",
        "Free memory on them, choose a --dtype of fewer bytes, or --device cpu",
    )
