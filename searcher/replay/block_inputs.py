"""What every block receives besides hidden states, recorded from the model's own forward.

Masks, position embeddings and the like depend on the shape of the input, not on its tokens nor on the hidden
states; so they can be recorded once per shape and given to the blocks again when a plan is replayed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from searcher.architecture.blocks import Architecture, forwards_replaced
from searcher.architecture.replacement_modules import keep_count, like


class _Enough(Exception):  # noqa: N818 - control flow
    """Leaves the model's forward once the last block has been reached."""


@dataclass(frozen=True)
class Call:
    """The arguments of one block's call, without the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_keyword: bool

    def run(self, block: Callable[..., Any], hidden: Tensor) -> Tensor:
        """Run the block on these hidden states: (batch, tokens, hidden size) to the same."""
        if self.by_keyword:
            return first(block(*self.args, hidden_states=hidden, **self.kwargs))
        return first(block(hidden, *self.args, **self.kwargs))


class Mover:
    """Hands tensors over to devices, each once for each device, however many blocks receive it."""

    def __init__(self) -> None:
        self._moved: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def to(self, value: Any, device: torch.device) -> Any:
        """The same with every tensor in it on this device."""
        return tree_map(lambda item: self._tensor(item, device) if isinstance(item, Tensor) else item, value)

    def _tensor(self, tensor: Tensor, device: torch.device) -> Tensor:
        if tensor.device == device:
            return tensor
        # the original is kept beside its copy, so that no other tensor can come to have its id
        return self._moved.setdefault((id(tensor), device), (tensor, tensor.to(device)))[1]

    def call(self, call: Call, device: torch.device) -> Call:
        """A block's call with its tensors on this device."""
        return Call(self.to(call.args, device), self.to(call.kwargs, device), call.by_keyword)


@dataclass(frozen=True)
class Recording:
    """One forward of the model up to its last block.

    Attributes:
        embedded: (batch, tokens, hidden size), the hidden states entering block 0.
        calls: per block, its other arguments.
    """

    embedded: Tensor
    calls: tuple[Call, ...]


def first(output: Any) -> Tensor:
    """The tensor of a module's output; older and some current families return it in a tuple."""
    tensor: Tensor = output[0] if isinstance(output, tuple | list) else output
    return tensor


def record(model: nn.Module, architecture: Architecture, outputs: "Outputs", ids: Tensor) -> Recording:
    """Run the model's own forward with blocks that compute nothing, noting what each receives.

    Args:
        ids: int64 (batch, tokens).
        outputs: what blocks return, so that the replacements return the same kind.
    """
    calls: list[Call] = []
    embedded: list[Tensor] = []

    def replacement(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden, call = _separate(args, kwargs)
            calls.append(call)
            embedded.append(hidden)
            if index == architecture.num_blocks - 1:
                raise _Enough
            return like(outputs.blocks[index], hidden)

        return forward

    replaced = {block: replacement(i) for i, block in enumerate(architecture.blocks)}
    try:
        with forwards_replaced(replaced):
            model(input_ids=ids, use_cache=False)
    except _Enough:
        pass
    return Recording(embedded[0], tuple(calls))


def _separate(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
    if args:
        return args[0], Call(args[1:], dict(kwargs), by_keyword=False)
    rest = dict(kwargs)
    return rest.pop("hidden_states"), Call((), rest, by_keyword=True)


@dataclass(frozen=True)
class Outputs:
    """What the blocks and sublayers return, each with its tensors replaced by None: `None` or a tuple of them."""

    blocks: tuple[Any, ...]
    sublayers: dict[nn.Module, Any]


def observe(model: nn.Module, architecture: Architecture, ids: Tensor) -> tuple[Outputs, Tensor]:
    """Run the dense model's own forward, noting what its parts return.

    Returns:
        The kinds of output, and the logits (batch, tokens, vocabulary).
    """
    sublayers = [m for m in (*architecture.attention, *architecture.ffn) if m is not None]
    seen: dict[nn.Module, Any] = {}

    def note(module: nn.Module, _args: Any, output: Any) -> None:
        seen[module] = (None,) * len(output) if isinstance(output, tuple | list) else None

    handles = [module.register_forward_hook(note) for module in (*architecture.blocks, *sublayers)]
    try:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return Outputs(tuple(seen[b] for b in architecture.blocks), {m: seen[m] for m in sublayers if m in seen}), logits


@contextmanager
def without(outputs: Outputs, removed: list[nn.Module]) -> Iterator[None]:
    """Let these sublayers add zero to the residual stream instead of running."""

    def silent(module: nn.Module) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            keep_count(getattr(module, "layer_idx", None), hidden, args, kwargs)
            return like(outputs.sublayers[module], torch.zeros_like(hidden))

        return forward

    with forwards_replaced({module: silent(module) for module in removed}):
        yield
