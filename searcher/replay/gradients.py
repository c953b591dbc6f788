"""Gradients of the dense model's loss by its weights, one block's at a time."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from searcher.architecture.blocks import path_of
from searcher.contracts.plan import Action, Part, Unit
from searcher.replay.replay import Replay


def measure_taylor(replay: Replay, ids: Tensor, units: Sequence[Unit]) -> list[float]:
    """The sum of |w dL/dw| over each unit's weights, L the mean loss over all windows; in the order of the units.

    The signed gradients of all windows are summed before the absolute value is taken (Shortened LLaMA, Kim et al. 2024,
    arXiv:2402.02834). From the last block down, each is run again on every window, now with gradients; so there live
    the gradients of one block at a time, float32, beside the states entering every block for all windows. The model is
    not changed, nor any `requires_grad` or `grad` of it.

    Args:
        replay: the model, its weights no inference tensors.
        ids: int64 (windows, tokens).
        units: whole blocks or sublayers.
    """
    with torch.inference_mode(False), torch.enable_grad():
        replay, ids = replay.sharing_weights(), ids.clone()  # made here: what inference mode made knows no gradients
        states = _states(replay, ids)
        slopes = [slope_of_loss(replay, row[None], state) for row, state in zip(ids, states.pop(), strict=True)]
        found: dict[Unit, float] = {}
        lowest = min(unit.block for unit in units)
        for block in reversed(range(lowest, replay.num_blocks)):
            here = [unit for unit in units if unit.block == block]
            weights = weights_of(replay, here)
            sums = _accumulate(replay, block, weights, states.pop(), slopes)
            of_weight = {n: _total(weights[n], gradient) for n, gradient in sums.items()}
            found |= {unit: sum(of_weight[name] for name in weights_of(replay, [unit])) for unit in here}
    losses = ids.shape[0] * (ids.shape[1] - 1)
    return [found[unit] / losses for unit in units]


def _total(weight: Tensor, gradient: Tensor) -> float:
    """The sum of |w g|; overwrites the gradient."""
    return float(gradient.mul_(weight).abs_().sum(dtype=torch.float64).item())


def weights_of(replay: Replay, units: Iterable[Unit]) -> dict[str, Tensor]:
    """The weights of units of one block, by name within the block, each once."""
    found: dict[str, Tensor] = {}
    for unit in units:
        prefix, module = _module_of(replay, unit)
        found |= {f"{prefix}{name}": weight for name, weight in module.named_parameters()}
    return found


def _module_of(replay: Replay, unit: Unit) -> tuple[str, nn.Module]:
    """The unit's module, and what the names of its weights begin with within the block."""
    block = replay.architecture.blocks[unit.block]
    if unit.part is Part.BLOCK:
        return "", block
    action = Action.NO_ATTENTION if unit.part is Part.ATTENTION else Action.NO_FFN
    (module,) = replay.architecture.removed_by(unit.block, action)
    return f"{path_of(block, module)}.", module


@torch.no_grad()
def _states(replay: Replay, ids: Tensor) -> list[list[Tensor]]:
    """By boundary between blocks, then by window: the dense states (1, tokens, hidden size)."""
    states = [[replay.embed(row[None]) for row in ids]]
    for block in range(replay.num_blocks):
        states.append([replay.run_block(state, block, Action.KEEP) for state in states[-1]])
    return states


def slope_of_loss(replay: Replay, ids: Tensor, state: Tensor) -> Tensor:
    """(1, tokens, hidden size): the gradient of the summed loss of one window by the states after the last block.

    The sum, since gradients of a mean would be too small for float16.
    """
    state = state.detach().requires_grad_()
    (logits,) = replay.head.logits(state, ids)  # (tokens, vocabulary)
    loss = nn.functional.cross_entropy(logits[:-1].float(), ids[0, 1:].to(logits.device), reduction="sum")
    (slope,) = torch.autograd.grad(loss, state)
    return slope


def _accumulate(
    replay: Replay, block: int, weights: dict[str, Tensor], entering: list[Tensor], slopes: list[Tensor]
) -> dict[str, Tensor]:
    """float32 gradients by these weights of a block, summed over the windows.

    Args:
        replay: the model.
        block: which.
        weights: by name within the block; none where nothing of the block is asked about.
        entering: the states entering the block, by window.
        slopes: the gradient by the states after the block, by window; replaced by that by the states before it.
    """
    sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    for window, (state, slope) in enumerate(zip(entering, slopes, strict=True)):
        before = state.detach().requires_grad_()
        after = replay.run_block_with(before, block, leaves)
        # an expert that no token was sent to has no gradient
        by_state, *by_weight = torch.autograd.grad(
            after, (before, *leaves.values()), slope, allow_unused=True, materialize_grads=True
        )
        slopes[window] = by_state
        for total, gradient in zip(sums.values(), by_weight, strict=True):
            total += gradient
    return sums
