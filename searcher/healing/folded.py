"""Every gap is made up for by the block before it: the linear map is folded into weights that the model has anyway."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from searcher.architecture.blocks import forwards_replaced
from searcher.architecture.replacement_modules import like
from searcher.contracts.plan import Action, Part, PrunePlan
from searcher.contracts.trie import plan_path
from searcher.errors import UsageError
from searcher.healing.calibration import PADDING, CalibrationSet, Meter
from searcher.healing.contract import Healing
from searcher.healing.gaps import choose, gap_ends
from searcher.healing.moments import RIDGES, Moments
from searcher.replay.batching import in_groups
from searcher.replay.block_inputs import first
from searcher.replay.repair import Repair
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
    """

    block: int
    name: str
    layer: nn.Linear | Conv1D

    def times(self, change: Tensor) -> dict[str, Tensor]:
        """Its weights, by name within the block, if its output is to be multiplied with I + change.

        Args:
            change: float64 (hidden size, hidden size).
        """
        return {
            f"{self.name}.{name}": _times(parameter, change, turned=isinstance(self.layer, nn.Linear))
            for name, parameter in self.layer.named_parameters()
        }


def _times(parameter: Tensor, change: Tensor, turned: bool) -> Tensor:
    """A bias, or a weight of shape (inputs, outputs), or turned the other way round, times I + change."""
    with torch.inference_mode(False):
        wide = parameter.detach().double()
        wide = wide + (change.t() @ wide if turned and wide.dim() == 2 else wide @ change)
        return wide.to(parameter.dtype)


@dataclass(frozen=True)
class LinearFolded(Healing):
    """Multiply what the FFN before each gap adds with a matrix, so that the gap is made up for; in closed form.

    The matrix is folded into the FFN's output projection: the healed model is as large and as fast as the pruned one
    and is saved in the stock format. Only what that FFN adds is mapped, so it heals less than `linear`.

    When to use it: where nothing can be trained and the checkpoint must load everywhere.

    Source: ReplaceMe (Shopkhoev et al. 2025, arXiv:2505.02819). With m what the FFN adds, r the rest of the hidden
    states before the gap and y the dense model's after it: min |m T - (y - r)|² + ridge * tr(mᵀm) / d * |T - I|²;
    here, as not in the paper, each token's terms are divided by |y|.

    Args:
        ridge: the penalty; None chooses it for each gap by the error on the held-out windows, where no change at all
            is one of the choices.
    """

    ridge: Annotated[float, Field(gt=0)] | None = None

    def heal(self, calibration: CalibrationSet, plan: PrunePlan) -> Repair:
        """Heal a plan of whole blocks; see :class:`Healing`.

        The hidden states of all windows are kept at two depths, before the gap and after it in the dense model.

        Raises:
            UsageError: the plan removes sublayers, or the map cannot be folded into the block before a gap.
        """
        folds = self._find_folds(calibration, plan)
        pruned, dense = (_States(calibration) for _ in range(2))
        weights: dict[str, Tensor] = {}
        for projection, last in folds:
            pruned.run_to(projection.block)
            dense.run_to(last + 1)
            found = self._fit(calibration, projection, pruned, dense)
            pruned.run_one(found)
            pruned.block = last + 1
            prefix = _name_of(calibration.replay, projection.block)
            weights |= {f"{prefix}.{name}": weight for name, weight in found.items()}
        return Repair(weights=weights)

    def most_work(self, calibration: CalibrationSet, plan: PrunePlan) -> Meter:
        """See :class:`Healing`: passes of the plan and of the dense model, and at each gap the maps that are tried."""
        work, blocks = Meter(), calibration.replay.num_blocks
        fit, held_out = len(calibration.fit), len(calibration.held_out)
        gaps = len(list(gap_ends(plan_path(plan, blocks))))
        maps = 1 + (len(RIDGES) if self.ridge is None else 1)
        if gaps:
            work.count(2 * blocks * (fit + held_out) + gaps * (3 + fit + maps * held_out))
        return work

    def _fit(
        self, calibration: CalibrationSet, projection: Projection, pruned: "_States", dense: "_States"
    ) -> dict[str, Tensor]:
        """The block's new weights by their names in it; none if no change is better.

        Args:
            calibration: whose model it is.
            projection: of the block.
            pruned: states entering that block.
            dense: what should leave the gap.
        """
        moments = Moments.zeros(dense.width, calibration.replay.model.device)
        for ids, entering, wanted in zip(pruned.texts[0], pruned.states[0], dense.states[0], strict=True):
            real = ids != PADDING
            added, leaving = run_with_ffn(calibration, entering, projection.block)
            moments.add(added[real], wanted[real].double() - leaving[real].double(), wanted[real])
        if not moments.finite:
            return {}
        ridges = RIDGES if self.ridge is None else (self.ridge,)
        changes = [projection.times(moments.ridge_map(ridge)) for ridge in ridges]

        def held_out() -> Iterator[tuple[Sequence[Tensor], Tensor]]:
            for ids, entering, wanted in zip(pruned.texts[1], pruned.states[1], dense.states[1], strict=True):
                real = ids != PADDING
                ends = (run_with_weights(calibration, entering, projection.block, new) for new in ({}, *changes))
                yield [end[real] for end in ends], wanted[real]

        best = choose(held_out())
        return changes[best - 1] if best else {}

    def _find_folds(self, calibration: CalibrationSet, plan: PrunePlan) -> list[tuple[Projection, int]]:
        """The projection before each gap, and the gap's last block."""
        replay = calibration.replay
        probe = replay.embed(calibration.fit[:1].clamp(min=0))
        folds = []
        for unit in plan.removed:
            if unit.part is not Part.BLOCK:
                _refuse(plan, f"it removes {unit}, and only gaps of whole blocks can be folded")
        path = plan_path(plan, replay.num_blocks)
        for end in gap_ends(path):
            before = len(path[:end].rstrip(bytes([Action.GONE]))) - 1
            if before < 0:
                _refuse(plan, "no FFN precedes the gap at block 0")
            try:
                folds.append((find_projection(replay, before, probe), end - 1))
            except NotFoldedError as error:
                _refuse(plan, f"before the gap at block {before + 1}, {error}")
            calibration.meter.count(2 + calibration.prices.weight[Action.NO_FFN])
        return folds


class _States:
    """The hidden states of a calibration's windows at one depth, in batches: those to fit on, and those held out.

    Attributes:
        texts: the windows.
        states: (rows, tokens, hidden size) each.
        block: which they enter.
        width: the hidden size.
    """

    def __init__(self, calibration: CalibrationSet) -> None:
        self._calibration = calibration
        self.texts = [list(in_groups(ids)) for ids in (calibration.fit, calibration.held_out)]
        self.states = [[calibration.replay.embed(ids.clamp(min=0)) for ids in text] for text in self.texts]
        self.block = 0
        self.width = self.states[0][0].shape[-1]

    def run_to(self, block: int) -> None:
        """Run all blocks before this one."""
        while self.block < block:
            self.run_one({})

    def run_one(self, weights: dict[str, Tensor]) -> None:
        """Run a block with these weights, by name within it, in place of its own."""
        for states in self.states:
            for number, hidden in enumerate(states):
                states[number] = run_with_weights(self._calibration, hidden, self.block, weights)
        self.block += 1


def run_with_weights(calibration: CalibrationSet, hidden: Tensor, block: int, weights: dict[str, Tensor]) -> Tensor:
    """Hidden states after a block that uses these weights, by name within it, in place of its own; counted."""
    if not weights:
        return calibration.run_block(hidden, block, Action.KEEP)
    calibration.meter.count(len(hidden))
    return calibration.replay.run_block_with(hidden, block, weights)


def run_with_ffn(calibration: CalibrationSet, hidden: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """What the FFN of a block adds to these hidden states, and those after the block."""
    ffn = calibration.replay.architecture.ffn[block]
    assert ffn is not None, "its projection was found"
    returned: list[Tensor] = []
    # a copy: some blocks add to it in place
    handle = ffn.register_forward_hook(lambda _module, _args, output: returned.append(first(output).clone()))
    try:
        leaving = calibration.run_block(hidden, block, Action.KEEP)
    finally:
        handle.remove()
    return returned[0], leaving


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
    found = [layer for layer, given, own in returned if layer in layers and _is_output(layer, given, own, output)]
    if len(found) != 1:
        raise NotFoldedError(f"what the FFN of block {block} returns is not the output of one layer, as with experts")
    name = next(name for name, module in replay.architecture.blocks[block].named_modules() if module is found[0])
    return Projection(block, name, found[0])


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


def _name_of(replay: Replay, block: int) -> str:
    wanted = replay.architecture.blocks[block]
    named: Iterator[tuple[str, nn.Module]] = replay.model.named_modules()
    return next(name for name, module in named if module is wanted)


def _refuse(plan: PrunePlan, reason: str) -> NoReturn:
    raise UsageError(
        f"Healing 'linear-folded' cannot heal plan {plan}: {reason}", "Use linear, which needs no weights to fold into"
    )
