"""Weights that are packed in fewer bits than they are computed in, by whatever library: told by what holds them."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from searcher.architecture.blocks import forwards_replaced
from searcher.errors import UsageError

FULL = 2
"""Bytes of the smallest floating-point number that a model computes in."""


def is_packed(tensor: Tensor) -> bool:
    """Whether it is a tensor of another library's, whole numbers, or of one byte each: no weight to compute with."""
    if _is_wrapper(tensor):
        return True
    if tensor.is_floating_point():
        return tensor.element_size() < FULL
    return tensor.dtype != torch.bool and tensor.numel() > 1


def packed_shape(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a linear layer whose weight is packed, in parameters or in buffers; None for any other module."""
    rows, columns = getattr(module, "out_features", None), getattr(module, "in_features", None)
    if not (isinstance(rows, int) and isinstance(columns, int)):
        return None
    return (rows, columns) if any(map(is_packed, _own(module))) else None


def packed_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The linear layers with packed weights by their names, in order."""
    return {name: one for name, one in module.named_modules() if packed_shape(one) is not None}


def has_packed(model: nn.Module) -> bool:
    """Whether any weight of the model is packed."""
    layers = any(packed_shape(module) is not None for module in model.modules())
    return layers or any(map(is_packed, model.parameters()))


def as_plain_products(model: nn.Module) -> AbstractContextManager[None]:
    """Let packed layers multiply by plain zeros of their shape: torch counts that, and no library's own way."""

    def product(layer: Any) -> Callable[[Tensor], Tensor]:
        return lambda entering: nn.functional.linear(
            entering, entering.new_zeros(1, 1).expand(layer.out_features, layer.in_features)
        )

    return forwards_replaced({layer: product(layer) for layer in packed_layers(model).values()})


def gives_gradients(model: nn.Module) -> bool:
    """Whether what comes out of every packed layer can be derived by what goes in, tried on zeros."""
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operations without a derivative: that is what is asked
        for layer in packed_layers(model).values():
            shape = packed_shape(layer)
            entering = torch.zeros((1, shape[1] if shape else 0), **_like(layer, model), requires_grad=True)
            try:
                torch.autograd.grad(layer(entering).sum(), entering)
            except (RuntimeError, NotImplementedError):
                return False
    return True


def _like(layer: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Device and dtype of what goes into a layer."""
    return {"device": next(iter(_own(layer))).device, "dtype": getattr(model, "dtype", torch.float32)}


def refuse_packed(model: nn.Module, what: str, reason: str, hint: str) -> None:
    """Refuse what needs plain weights.

    Args:
        model: whose weights are looked at.
        what: needs them, the subject of a sentence.
        reason: why, the end of that sentence.
        hint: what to take instead.

    Raises:
        UsageError: some are packed.
    """
    if has_packed(model):
        raise UsageError(f"{what} cannot be had of quantised weights: {reason}", hint)


def count_parameters(modules: Iterable[nn.Module]) -> int:
    """How many parameters the modules have, each once; of packed ones, how many they stand for."""
    seen: dict[int, int] = {}
    for module in _all(modules):
        shape = packed_shape(module)
        if shape is None:
            seen |= {id(p): p.numel() for p in module.parameters(recurse=False)}
        else:
            bias = getattr(module, "bias", None)
            seen[id(module)] = shape[0] * shape[1] + (bias.numel() if isinstance(bias, Tensor) else 0)
    return sum(seen.values())


def count_bytes(modules: Iterable[nn.Module]) -> int:
    """Bytes of the parameters of the modules, each once; of packed ones with their scales and zero points."""
    seen: dict[int, int] = {}
    for module in _all(modules):
        packed = packed_shape(module) is not None
        tensors = _own(module) if packed else module.parameters(recurse=False)
        seen |= {id(tensor): sum(part.nbytes for part in parts_of(tensor)) for tensor in tensors}
    return sum(seen.values())


def parts_of(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that it is kept in: itself, or numbers, scales and zero points."""
    if _is_wrapper(tensor):
        held: Any = tensor
        for name in held.__tensor_flatten__()[0]:
            yield from parts_of(getattr(tensor, name))
    else:
        yield tensor
        yield from _beside(tensor)


def _is_wrapper(tensor: Any) -> bool:
    """Whether it is a tensor that holds others, as torchao's are."""
    return is_traceable_wrapper_subclass(tensor)


def _beside(tensor: Tensor) -> Iterator[Tensor]:
    """Scales that bitsandbytes keeps as attributes of a weight: `SCB` in 8 bits, and a state in 4, itself packed."""
    held = getattr(tensor, "quant_state", None)
    while held is not None:
        yield from (value for value in vars(held).values() if type(value) is Tensor)
        held = getattr(held, "state2", None)
    scales = getattr(tensor, "SCB", None)
    if isinstance(scales, Tensor):
        yield scales


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _all(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    return iter({id(inner): inner for module in modules for inner in module.modules()}.values())
