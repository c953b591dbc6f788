"""Gradients of the dense model's loss by gates: how it changes as what each unit adds to the states is scaled.

A block changes the hidden states from h to h + g (block(h) - h), a sublayer likewise by what it adds, with g = 1 in the
dense model. The gradient by g is the inner product of what the unit adds with the gradient by the states right behind
it; so one walk back through the states gives those of all units, and no weight needs a gradient.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searcher.contracts.plan import Action, Part, Unit
from searcher.errors import UsageError, first_line
from searcher.replay.gradients import slope_of_loss
from searcher.replay.replay import Replay
from searcher.replay.self_check import close, probe_of

Back = Callable[[Replay, int, Tensor, Tensor], tuple[Tensor, dict[Part, float]]]
"""From a block's number, the states entering it and the gradient by those leaving it, (1, tokens, hidden size) each:
the gradient by the states entering it, and those by the gates of its parts."""


def measure_gate_gradients(replay: Replay, ids: Tensor, units: Sequence[Unit]) -> NDArray[np.float64]:
    """The gradient of each window's mean loss by each unit's gate, all gates being 1.

    A window is run through the dense model, then each block again with a graph of its own, from the last down to that
    of the lowest unit. So there lives the graph of one block at a time, beside one window's states. Inner products are
    of float32 numbers, summed in float64. The model is not changed, nor any `requires_grad` or `grad` of it.

    Args:
        replay: the model, checked for the granularity of the units; its weights no inference tensors.
        ids: int64 (windows, tokens).
        units: whole blocks, or sublayers.

    Returns:
        float64 (windows, units), in nats per token.

    Raises:
        UsageError: the model has an operation without a derivative, gradients are not finite, or what a sublayer adds
            to the states of its block cannot be told from what the other one adds.
    """
    with torch.inference_mode(False), torch.enable_grad():
        replay, ids = replay.sharing_weights(), ids.clone()  # made here: what inference mode made knows no gradients
        ways = _ways(replay, units)
        try:
            rows = [_of_window(replay, row[None], units, ways) for row in ids]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _refused(replay, f"the backward pass fails ({first_line(error)})") from error
    found = np.array(rows, dtype=np.float64).reshape(len(ids), len(units)) / (ids.shape[1] - 1)
    if not np.isfinite(found).all():
        raise _refused(replay, "some are not finite")
    return found


def _refused(replay: Replay, reason: str) -> UsageError:
    return UsageError(
        f"{type(replay.model).__name__} gives no gradients by gates: {reason}",
        "Choose a strategy that needs none, or load the model with plain weights and --dtype float32",
    )


def _of_window(replay: Replay, ids: Tensor, units: Sequence[Unit], ways: Mapping[int, Back]) -> list[float]:
    """The gradients of the summed loss of one window, int64 (1, tokens), in the order of the units.

    The sum, since gradients of a mean would be too small for float16.
    """
    states = _states(replay, ids)
    slope = slope_of_loss(replay, ids, states.pop())
    found: dict[Unit, float] = {}
    for block in reversed(range(min(unit.block for unit in units), replay.num_blocks)):
        slope, of_part = ways[block](replay, block, states.pop(), slope)
        found |= {Unit(block, part): gradient for part, gradient in of_part.items()}
    return [found[unit] for unit in units]


@torch.no_grad()
def _states(replay: Replay, ids: Tensor) -> list[Tensor]:
    """The dense states entering each block, and those leaving the last: (1, tokens, hidden size)."""
    states = [replay.embed(ids)]
    for block in range(replay.num_blocks):
        states.append(replay.run_block(states[-1], block, Action.KEEP))
    return states


def _through_block(replay: Replay, block: int, entering: Tensor, slope: Tensor) -> tuple[Tensor, dict[Part, float]]:
    before = _leaf(entering)
    after = replay.run_block(before, block, Action.KEEP)
    (lower,) = torch.autograd.grad(after, before, slope)
    return lower, {Part.BLOCK: _product(slope, before, after)}


def _one_after_the_other(
    replay: Replay, block: int, entering: Tensor, slope: Tensor
) -> tuple[Tensor, dict[Part, float]]:
    """Where the FFN reads what the attention has added."""
    before = _leaf(entering)
    between = replay.run_block(before, block, Action.NO_FFN)
    middle = _leaf(between)
    after = replay.run_block(middle, block, Action.NO_ATTENTION)
    (between_slope,) = torch.autograd.grad(after, middle, slope)
    (lower,) = torch.autograd.grad(between, before, between_slope)
    return lower, {
        Part.ATTENTION: _product(between_slope, before, between),
        Part.FFN: _product(slope, middle, after),
    }


def _side_by_side(replay: Replay, block: int, entering: Tensor, slope: Tensor) -> tuple[Tensor, dict[Part, float]]:
    """Where attention and FFN both read the states that enter the block: after = attended + fed - before."""
    before = _leaf(entering)
    attended = replay.run_block(before, block, Action.NO_FFN)
    fed = replay.run_block(before, block, Action.NO_ATTENTION)
    (lower,) = torch.autograd.grad((attended, fed), before, (slope, slope))
    return lower - slope.to(lower.device), {
        Part.ATTENTION: _product(slope, before, attended),
        Part.FFN: _product(slope, before, fed),
    }


def _leaf(state: Tensor) -> Tensor:
    return state.detach().requires_grad_()


def _product(slope: Tensor, before: Tensor, after: Tensor) -> float:
    """The inner product of a gradient by states with what a unit adds to them."""
    wide = torch.promote_types(slope.dtype, torch.float32)
    added = after.detach().to(wide) - before.detach().to(after.device, wide)
    return float((slope.to(wide) * added).sum(dtype=torch.float64).item())


@torch.no_grad()
def _ways(replay: Replay, units: Sequence[Unit]) -> dict[int, Back]:
    """How to go back through each block, found on a short text of random tokens.

    Raises:
        UsageError: sublayers are asked about, and their block adds them up in neither of the two ways there are.
    """
    apart = {unit.block for unit in units if unit.part is not Part.BLOCK}
    ways: dict[int, Back] = dict.fromkeys(range(replay.num_blocks), _through_block)
    if not apart:
        return ways
    states = _states(replay, probe_of(replay.model))
    return ways | {block: _way(replay, block, states[block], states[block + 1]) for block in sorted(apart)}


def _way(replay: Replay, block: int, before: Tensor, after: Tensor) -> Back:
    before = before.to(after.device)
    try:
        between = replay.run_block(before, block, Action.NO_FFN)
        beside = between + replay.run_block(before, block, Action.NO_ATTENTION) - before
        in_turn = replay.run_block(between, block, Action.NO_ATTENTION)
    except LookupError as error:
        raise _refused(replay, f"block {block} has no attention or no FFN of its own") from error
    guesses: tuple[tuple[Tensor, Back], ...] = ((in_turn, _one_after_the_other), (beside, _side_by_side))
    guess, way = min(guesses, key=lambda pair: float((pair[0] - after).abs().max()))
    if not close(guess, after):
        raise _refused(replay, f"block {block} does not simply add what its attention and its FFN return")
    return way
