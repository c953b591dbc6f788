"""The processor or an accelerator, by torch's generic interface; what that lacks is asked of the device's own module.

Nothing outside of this file names a kind of accelerator to decide how something is computed on it.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import psutil
import torch
from torch import nn

from searcher.errors import UsageError

SPEC = re.compile(r"(?P<kind>[a-z]+)(:(?P<index>\d+))?")
OF_FREE = 0.9
"""The share of an accelerator's free memory that may be taken where nothing else is said; of the host's it is a
quarter, since others work there too."""


def choose_device(spec: str) -> torch.device:
    """The device of a name.

    Args:
        spec: `cpu`, a kind of accelerator such as `cuda`, `xpu` or `mps`, which is the first of them, or one of several
            such as `cuda:1`; `auto` is the accelerator that torch sees, else the CPU.

    Raises:
        UsageError: there is no such device here; it says which there are.
    """
    kind, count = seen()
    if spec == "auto":
        return torch.device(kind, 0) if count else torch.device("cpu")
    named = SPEC.fullmatch(spec)
    if named is None or not _is_kind(named["kind"]) or (named["kind"] == "cpu" and named["index"]):
        raise UsageError(
            f"Device '{spec}' is not known", "Choose auto, cpu, an accelerator (cuda) or one of several (cuda:1)"
        )
    if named["kind"] == "cpu":
        return torch.device("cpu")
    if named["kind"] != kind or int(named["index"] or 0) >= count:
        raise UsageError(f"Device '{spec}' is not available: {_told(kind, count)}", "Try --device auto")
    return torch.device(kind, int(named["index"] or 0))


def may_spread(spec: str) -> bool:
    """Whether a name leaves open which of several accelerators is meant, so that all of them may be used."""
    return spec != "cpu" and ":" not in spec and seen()[1] > 1


def seen() -> tuple[str, int]:
    """The kind of accelerator that torch sees, and how many of them there are; ("cpu", 0) where it sees none."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return ("cpu", 0) if found is None else (found.type, torch.accelerator.device_count())


def _is_kind(name: str) -> bool:
    try:
        return torch.device(name).type != "meta"
    except RuntimeError:  # torch knows no device of that name
        return False


def _told(kind: str, count: int) -> str:
    return f"torch sees {count} of kind {kind}" if count else "torch sees no accelerator"


def computes_on_cpu(device: torch.device) -> bool:
    """Whether it is the processor, where equal shapes give equal bits; no accelerator promises that."""
    return device.type == "cpu"


def devices_of(modules: Iterable[nn.Module]) -> tuple[torch.device, ...]:
    """Where the weights of modules are, each device once, in the order in which they come."""
    weights = (parameter for module in modules for parameter in module.parameters())
    return tuple(
        dict.fromkeys(weight.device for weight in weights if weight.device.type != "meta")
    )  # streamed ones are nowhere


def device_of(module: nn.Module, otherwise: torch.device) -> torch.device:
    """Where a module's first weight is; another device for a module without any, or whose weights are streamed."""
    return next((weight.device for weight in module.parameters() if weight.device.type != "meta"), otherwise)


def synchronize(*devices: torch.device) -> None:
    """Wait until what these devices were told to do is done; the processor never lags behind."""
    for device in devices:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)


def name_of(device: torch.device) -> str:
    """What an accelerator calls itself, such as `NVIDIA H100`; its kind where it does not tell."""
    found = _own(device, "get_device_name")
    return str(found(device)) if found else device.type


def memory_of(tensor: torch.Tensor) -> int:
    """Tells memories apart; views of one have the same."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # it is made of other tensors, and has no memory of its own
        return id(tensor)


def bytes_taken(device: torch.device) -> int:
    """What this process has taken there."""
    if device.type == "cpu":
        return int(psutil.Process().memory_info().rss)
    if device.type == "mps":  # its module has no function of the usual name
        return int(torch.mps.current_allocated_memory())
    return int((_own(device, "memory_allocated") or torch.accelerator.memory_allocated)(device))


def bytes_free(device: torch.device) -> int:
    """What is free there, for any process."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return int((_own(device, "mem_get_info") or torch.accelerator.get_memory_info)(device)[0])


def bytes_to_take(device: torch.device) -> int:
    """What may be taken of what is free where nothing else is said."""
    return bytes_free(device) // 4 if device.type == "cpu" else int(OF_FREE * bytes_free(device))


def most_bytes_taken(device: torch.device) -> int | None:
    """The most that this process has had there at a time; None where the device keeps no such count."""
    found = None if device.type == "cpu" else _own(device, "max_memory_allocated")
    return int(found(device)) if found else None


def forget_most_bytes_taken(device: torch.device) -> None:
    """Let :func:`most_bytes_taken` count from now on, where the device counts."""
    found = None if device.type == "cpu" else _own(device, "reset_peak_memory_stats")
    if found:
        found(device)


def has_bfloat16(device: torch.device) -> bool:
    """Whether an accelerator multiplies in bfloat16 natively; one that cannot tell is taken for one that does not."""
    found = _own(device, "is_bf16_supported")
    if found is None:
        return False
    try:
        return bool(found(including_emulation=False))
    except TypeError:  # not every kind tells native from emulated
        return bool(found())


def versions_of(device: torch.device) -> dict[str, Any]:
    """Versions of what an accelerator computes by, as far as torch was built for one; plain JSON values."""
    known = {"cuda": torch.version.cuda, "hip": torch.version.hip, "xpu": getattr(torch.version, "xpu", None)}
    return {name: version for name, version in known.items() if version is not None or name == device.type}


def free_memory(device: torch.device) -> None:
    """Give back what the allocator keeps for later."""
    if found := None if device.type == "cpu" else _own(device, "empty_cache"):
        found()


def on_cpu(model: Any) -> Any:
    """The model itself, moved to the CPU, without the hooks that handed states from one device to another."""
    if len(devices_of([model])) > 1:
        from accelerate.hooks import remove_hook_from_submodules  # takes a second

        remove_hook_from_submodules(model)
    return model.cpu()


def check_float64(device: torch.device, what: str) -> None:
    """Refuse what sums in float64 on a device that has no such numbers.

    Args:
        device: where the sums would be.
        what: needs them, for the message.

    Raises:
        UsageError: it has none.
    """
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError) as error:  # torch raises the one or the other
        raise UsageError(f"{what} needs float64, which {device} does not have", "Use --device cpu") from error


def _own(device: torch.device, name: str) -> Callable[..., Any] | None:
    """A function of the module that torch has for this kind of device, such as `torch.cuda`; None if it lacks it."""
    return getattr(torch.get_device_module(device), name, None)
