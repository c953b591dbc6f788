"""Small modules that stand where something was removed: what a repair puts there, and what adds nothing at all."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache


class Shift(nn.Module):
    """Adds one vector to every hidden state.

    Args:
        width: the model's hidden size.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) to the same."""
        return hidden + self.shift


class Scale(nn.Module):
    """Multiplies every hidden state with one number, which starts as 1."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) to the same."""
        return hidden * self.factor


class LinearMap(nn.Module):
    """Multiplies every hidden state with one matrix, which starts as the identity.

    Args:
        width: the model's hidden size.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) to the same: each row times the matrix."""
        return hidden @ self.weight


class LowRankMap(nn.Module):
    """Adds to every hidden state its product with a matrix of low rank, which starts at zero.

    Args:
        width: the model's hidden size.
        rank: of the matrix.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(width, rank))
        self.up = nn.Parameter(torch.zeros(rank, width))

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) to the same."""
        return hidden + (hidden @ self.down) @ self.up


class FFN(nn.Module):
    """A residual feed-forward network on normed hidden states; it adds zero at first.

    Args:
        width: the model's hidden size.
        inner: neurons.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        _zero(self.down)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) to the same."""
        added: Tensor = self.down(F.gelu(self.up(self.norm(hidden))))
        return hidden + added


class SwiGLU(nn.Module):
    """The same with a gate: `down(silu(gate(x)) * up(x))`.

    Args:
        width: the model's hidden size.
        inner: neurons.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        _zero(self.down)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) to the same."""
        normed = self.norm(hidden)
        added: Tensor = self.down(F.silu(self.gate(normed)) * self.up(normed))
        return hidden + added


KINDS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (Shift, Scale, LinearMap, LowRankMap, FFN, SwiGLU)}
"""The modules that a checkpoint may hold beside the model's own, by name."""


def describe(module: nn.Module) -> dict[str, Any]:
    """What :func:`build` makes the module from again, without its weights; JSON."""
    sizes: dict[str, Any] = {}
    match module:
        case Shift():
            sizes = {"width": module.shift.shape[0]}
        case Scale():
            pass
        case LinearMap():
            sizes = {"width": module.weight.shape[0]}
        case LowRankMap():
            sizes = {"width": module.down.shape[0], "rank": module.down.shape[1]}
        case FFN() | SwiGLU():
            sizes = {"width": module.up.in_features, "inner": module.up.out_features}
        case _:
            raise TypeError(f"{type(module).__name__} is none of {', '.join(KINDS)}")
    return {"kind": type(module).__name__, **sizes}


def build(description: Mapping[str, Any]) -> nn.Module:
    """A new module of this description; see :func:`describe`."""
    sizes = dict(description)
    return KINDS[sizes.pop("kind")](**sizes)


class Inserted(nn.Module):
    """A pointwise module in the list of blocks, where the model hands it what it hands a block.

    Args:
        module: (…, hidden size) to the same.
        returns: what the model's blocks return: None for a tensor, a tuple as long as theirs.
        layer_idx: its place in the key-value cache, where it keeps nothing but the count of tokens.
    """

    def __init__(self, module: nn.Module, returns: Any, layer_idx: int) -> None:
        super().__init__()
        self.module, self.returns, self.layer_idx = module, returns, layer_idx

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a block returns, with the hidden states that the module makes of those given."""
        hidden = args[0] if args else kwargs["hidden_states"]
        keep_count(self.layer_idx, hidden, args, kwargs)
        place = next((parameter.device for parameter in self.module.parameters()), hidden.device)
        return like(self.returns, self.module(hidden.to(place)))

    @classmethod
    def like_block(cls, block: nn.Module, module: nn.Module, returns: Any, layer_idx: int) -> "Inserted":
        """One that answers as this block when it is asked of what kind it is.

        Some models choose a block's mask by the kind of its attention, which is kept as text.
        """
        inserted = cls(module, returns, layer_idx)
        for name, value in vars(block).items():
            if isinstance(value, str):
                setattr(inserted, name, value)
        return inserted


class Nothing(nn.Module):
    """In the place of a sublayer: it adds zero, has no weights, and keeps next to nothing in a key-value cache.

    Args:
        returns: what the sublayer returned: None for a tensor, a tuple as long as its.
        layer_idx: its place in the key-value cache; None for an FFN.
    """

    def __init__(self, returns: Any, layer_idx: int | None) -> None:
        super().__init__()
        self.returns, self.layer_idx = returns, layer_idx

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the sublayer returns, with zeros for hidden states."""
        hidden = args[0] if args else kwargs["hidden_states"]
        keep_count(self.layer_idx, hidden, args, kwargs)
        return like(self.returns, torch.zeros_like(hidden))


def keep_count(index: int | None, hidden: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Note the new tokens in a key-value cache, if one is handed over, with keys and values of a single number each.

    A cache counts its tokens by one of its layers, and masks are made from that count; it takes keys of no width for
    none at all.

    Args:
        index: the place in the cache; None if there is none.
        hidden: (rows, tokens, hidden size).
        args: with which a block or sublayer is called.
        kwargs: the same, by name.
    """
    cache = next((a for a in (*args, *kwargs.values()) if isinstance(a, Cache)), None)
    if cache is not None and index is not None:
        nothing = hidden.new_zeros((hidden.shape[0], 1, hidden.shape[1], 1))
        cache.update(nothing, nothing, index)


def like(template: Any, tensor: Tensor) -> Any:
    """The tensor, in a tuple as long as the template's where that is one."""
    return (tensor, *(None,) * (len(template) - 1)) if isinstance(template, tuple | list) else tensor


def _zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
