"""The layer whose output is what an FFN adds to the hidden states, found by what it returns."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from searcher.architecture.blocks import forwards_replaced, path_of
from searcher.architecture.replacement_modules import like
from searcher.architecture.streamed_modules import present
from searcher.replay.block_inputs import first
from searcher.replay.replay import Replay

ROUNDING = 8
"""Units in the last place that sums in another order may differ by."""


class NotFoldedError(Exception):
    """Why a map cannot be folded into a block."""


@dataclass(frozen=True, eq=False)
class Projection:
    """The layer whose output is what the FFN of a block adds to the hidden states.

    Attributes:
        block: the block's number.
        name: of the layer within the block.
        layer: it.
        owner: the block.
    """

    block: int
    name: str
    layer: nn.Linear | Conv1D
    owner: nn.Module

    def times(self, change: Tensor) -> dict[str, Tensor]:
        """Its weights, by name within the block, if its output is to be multiplied with I + change.

        Args:
            change: float64 (hidden size, hidden size).
        """
        turned = isinstance(self.layer, nn.Linear)
        with present(self.owner):
            named = tuple(self.layer.named_parameters())
            return {f"{self.name}.{name}": _times(parameter, change, turned) for name, parameter in named}


def _times(parameter: Tensor, change: Tensor, turned: bool) -> Tensor:
    """A bias, or a weight of shape (inputs, outputs), or turned the other way round, times I + change."""
    with torch.inference_mode(False):
        wide = parameter.detach().double()
        wide = wide + (change.t() @ wide if turned and wide.dim() == 2 else wide @ change)
        return wide.to(parameter.dtype)


def find_projection(replay: Replay, block: int, hidden: Tensor) -> Projection:
    """The layer whose output is what the FFN of this block adds to the hidden states.

    It is found by what it returns, whatever its name, and what follows it by what becomes of other outputs.

    Args:
        replay: runs the block.
        block: its number.
        hidden: (rows, tokens, hidden size), any that may enter it.

    Raises:
        NotFoldedError: there is none, with the reason.
    """
    ffn = replay.architecture.ffn[block]
    if ffn is None or ffn not in replay.outputs.sublayers:
        raise NotFoldedError(f"block {block} has no FFN module of its own")
    if not _simply_added(replay, block, ffn, hidden):
        raise NotFoldedError(f"block {block} does not simply add what its FFN returns; a norm may stand between")
    owner = replay.architecture.blocks[block]
    returned: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        returned.append((module, args[0], first(output).clone()))  # some blocks add to it in place

    layers = [module for module in ffn.modules() if isinstance(module, nn.Linear | Conv1D)]
    handles = [module.register_forward_hook(note) for module in dict.fromkeys((*layers, ffn))]
    try:
        replay.run_block_without(hidden, block, [])
    finally:
        for handle in handles:
            handle.remove()
    output = returned[-1][2]
    with present(owner):
        found = [layer for layer, given, own in returned if layer in layers and _is_output(layer, given, own, output)]
    if len(found) != 1:
        raise NotFoldedError(f"what the FFN of block {block} returns is not the output of one layer, as with experts")
    return Projection(block, path_of(owner, found[0]), found[0], owner)


def _is_output(layer: nn.Module, given: Tensor, own: Tensor, output: Tensor) -> bool:
    """Whether this is the FFN's output, and the product of what the layer is given with its plain weight."""
    if not (own.shape == output.shape and torch.equal(own, output)):
        return False
    weight = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
    if not (isinstance(weight, Tensor) and weight.is_floating_point() and weight.shape[0] == own.shape[-1]):
        return False
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    return _same(own, F.linear(given, weight, bias))


def _simply_added(replay: Replay, block: int, ffn: nn.Module, hidden: Tensor) -> bool:
    """Whether the block's output is the rest of the stream plus whatever the FFN returns: here vectors twice as long.

    A norm would change their length and a factor would show; beside an FFN's own output, which may be small, rounding
    could hide both.
    """
    rest = replay.run_block_without(hidden, block, [ffn])
    scale = 2 * rest.float().square().mean(dim=-1, keepdim=True).sqrt()
    noise = torch.randn(rest.shape, generator=torch.Generator().manual_seed(0)).to(rest.device)
    given = (scale * noise).to(rest.dtype)
    answer = like(replay.outputs.sublayers[ffn], given.clone())  # some blocks add to it in place
    with forwards_replaced({ffn: lambda *_args, **_kwargs: answer}):
        return _same(replay.run_block_without(hidden, block, []), rest + given)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether every token's vector is the same but for rounding."""
    rounding = ROUNDING * torch.finfo(other.dtype).eps
    distances = (one.float() - other.float()).norm(dim=-1)
    return bool((distances <= rounding * other.float().norm(dim=-1)).all())
