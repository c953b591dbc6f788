"""Modules whose weights are on the device only while they run, read from elsewhere each time.

A streamed module keeps its parameters on the device `meta`. Whoever runs it, the model's own forward among them, finds
the weights in place; whoever reads weights directly asks for them with :func:`present` or :func:`weights_of`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Weights = Callable[[], Mapping[str, Tensor]]
"""Gives a module's parameters and saved buffers by name, on the model's device; copies of the module share it."""
Rows = Callable[[Tensor], Tensor]
"""Gives rows of a matrix, (count, width) on the model's device, for int64 (count,) distinct row numbers."""


def stream(module: nn.Module, weights: Weights) -> None:
    """Let a module have its weights only while it runs."""
    module.__dict__["forward"] = _Streamed(module, weights)


def stream_rows(module: nn.Embedding, rows: Rows) -> None:
    """Let an embedding read only the rows that it looks up."""
    module.__dict__["forward"] = _LookedUp(module, rows)


def streamed(module: nn.Module) -> bool:
    """Whether a module has its weights only while it runs."""
    return isinstance(module.__dict__.get("forward"), _Streamed)


@contextmanager
def present(*modules: nn.Module) -> Iterator[None]:
    """Let modules have their weights, as long as a `with` statement lasts; they are for reading only."""
    put: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for module in modules:
            forward = module.__dict__.get("forward")
            if isinstance(forward, _Streamed):
                put += forward.put()
        yield
    finally:
        _put_back(put)


def weights_of(module: nn.Module) -> Mapping[str, Tensor]:
    """The module's parameters by name, wherever they come from."""
    forward = module.__dict__.get("forward")
    own = dict(module.named_parameters())
    return {**own, **forward.weights()} if isinstance(forward, _Streamed) else own


class _Streamed:
    """Stands for the forward of a module. A deep copy of the module has one of its own, with the same weights."""

    def __init__(self, module: nn.Module, weights: Weights) -> None:
        self.module, self.weights = module, weights

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        put = self.put()
        try:
            return type(self.module).forward(self.module, *args, **kwargs)
        finally:
            _put_back(put)

    def put(self) -> list[tuple[dict[str, Any], str, Any]]:
        """Put the weights where the module has none, and tell where; one that it has been given stays."""
        put: list[tuple[dict[str, Any], str, Any]] = []
        for name, tensor in self.weights().items():
            path, _, own = name.rpartition(".")
            module = self.module.get_submodule(path)
            held: dict[str, Any] = module._parameters if own in module._parameters else module._buffers
            if held[own].device.type == "meta":
                put.append((held, own, held[own]))
                held[own] = nn.Parameter(tensor, requires_grad=False) if held is module._parameters else tensor
        return put

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Streamed":
        return type(self)(memo[id(self.module)], self.weights)


def _put_back(put: list[tuple[dict[str, Any], str, Any]]) -> None:
    for held, own, before in put:
        held[own] = before


class _LookedUp:
    """Stands for the forward of an embedding: the rows of one batch are its whole table."""

    def __init__(self, module: nn.Embedding, rows: Rows) -> None:
        self.module, self.rows = module, rows

    def __call__(self, ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        numbers, places = torch.unique(ids, return_inverse=True)
        before = self.module._parameters["weight"]
        self.module._parameters["weight"] = nn.Parameter(self.rows(numbers), requires_grad=False)
        try:
            return type(self.module).forward(self.module, places, *args, **kwargs)
        finally:
            self.module._parameters["weight"] = before

    def __deepcopy__(self, memo: dict[int, Any]) -> "_LookedUp":
        return type(self)(memo[id(self.module)], self.rows)


def put_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Let the parameter or buffer of this name be another tensor."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    if own in module._parameters:
        parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
        module._parameters[own] = parameter
    else:
        module._buffers[own] = tensor
