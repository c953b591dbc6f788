"""Devices that compute on the CPU and refuse what a real second device would: operations on tensors of several devices.

Tensors say that they are on `privateuseone:0` or `privateuseone:1`, names that torch keeps for devices of others, and
hold their numbers on the CPU. Every operation looks at where its tensors say they are, in every thread. As on CUDA, a
number without dimensions and indices may come from the CPU.
"""

import types
from typing import Any

import torch
from accelerate import dispatch_model
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyDeviceGuard

from searcher.loading.spread import settle

KIND = "privateuseone"
FIRST, SECOND = (torch.device(KIND, index) for index in range(2))
CPU = torch.device("cpu")
ROOM = 8 << 30
"""Bytes that each has free."""
_COPYING = ("aten::copy_", "aten::_to_copy", "aten::to", "aten::_copy_from")
_INDEXING = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")
_set_up: list[Any] = []


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor, device: torch.device) -> "Elsewhere":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[no-any-return, attr-defined]
            cls, raw.shape, raw.stride(), raw.storage_offset(), dtype=raw.dtype, device=device
        )

    def __init__(self, raw: torch.Tensor, device: torch.device) -> None:
        self.raw = raw

    def data_ptr(self) -> int:
        return self.raw.data_ptr()  # by which accelerate tells tied weights

    def __getitem__(self, index: Any) -> Any:  # torch has no way to turn a list into an index here
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    def __repr__(self) -> str:
        return f"{self.raw!r} on {self.device}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, *args, **(kwargs or {}))


def set_up() -> None:
    """Let torch take the devices for real ones, from now on and in every thread; it sees no accelerator for that."""
    if _set_up:
        return
    module = types.ModuleType(f"torch.{KIND}")
    vars(module).update(
        _lazy_init=lambda: None,
        is_available=lambda: True,
        is_initialized=lambda: True,
        _is_in_bad_fork=lambda: False,
        device_count=lambda: 2,
        current_device=lambda: 0,
        get_device_name=lambda device: "simulated",
        memory_allocated=lambda device: 0,
        mem_get_info=lambda device: (ROOM, ROOM),
    )
    torch._register_device_module(KIND, module)
    guard, library = _DummyDeviceGuard(), torch.library.Library("_", "IMPL")
    torch._C._acc.register_python_privateuseone_device_guard(guard)
    library.fallback(_run, "PrivateUse1")
    _set_up.extend([guard, library])


def put(module: nn.Module, device: torch.device) -> None:
    """Put a module's weights and buffers on a device."""
    for inner in module.modules():
        for held in (inner._parameters, inner._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    moved = Elsewhere(tensor.detach(), device)
                    held[name] = nn.Parameter(moved, requires_grad=False) if held is inner._parameters else moved


def spread(model: Any, embedding: torch.device = FIRST, head: torch.device = SECOND) -> Any:
    """A model with the first half of its blocks on the first device and the others on the second, by accelerate.

    A head that shares its weight with the embedding is where that is.
    """
    set_up()
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    name = next(n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    places = {f"{name}.{block}": (FIRST, SECOND)[2 * block >= count] for block in range(count)}
    leaves = [n for n, m in model.named_modules() if not [*m.children()] and not n.startswith(f"{name}.")]
    head = embedding if model.config.tie_word_embeddings else head
    for leaf in leaves:
        places[leaf] = SECOND if "norm" in leaf else head if "head" in leaf else embedding
    for place, device in places.items():
        put(model.get_submodule(place), device)
    model.tie_weights()
    dispatch_model(model, places)
    settle(model, "simulated")
    return model


def _run(func: Any, *args: Any, **kwargs: Any) -> Any:
    leaves = tree_leaves((args, kwargs))
    asked = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    here = _places(func, args, leaves)
    if len(here) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got {sorted(map(str, here))}")
    device = asked or next(iter(here), CPU)
    known = {id(leaf.raw): leaf for leaf in leaves if isinstance(leaf, Elsewhere)}

    def hidden(leaf: Any) -> Any:
        if isinstance(leaf, torch.device):
            return CPU
        return leaf.raw if isinstance(leaf, Elsewhere) else leaf

    def shown(result: Any) -> Any:
        if not isinstance(result, torch.Tensor) or isinstance(result, Elsewhere):
            return result
        if id(result) in known and known[id(result)].device == device:
            return known[id(result)]
        return result if device.type == "cpu" else Elsewhere(result, device)

    with torch.inference_mode(False), torch.no_grad():  # a view of a weight made in inference mode would be refused
        return tree_map(shown, func(*tree_map(hidden, args), **tree_map(hidden, kwargs)))


def _places(func: Any, args: Any, leaves: list[Any]) -> set[torch.device]:
    """Where the tensors are that must be together."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    name = func._schema.name
    if name in (*_COPYING, *_INDEXING):
        first = {tensors[0].device}
        return first if name in _COPYING else first | {t.device for t in tensors[1:] if t.device != CPU}
    return {t.device for t in tensors if t.dim()} or {t.device for t in tensors}
