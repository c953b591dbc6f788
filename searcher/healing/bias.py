"""What is removed is replaced by the vector that it added on average."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from searcher.architecture.replacement_modules import Shift
from searcher.contracts.plan import Action, Granularity, PrunePlan
from searcher.healing.calibration import PADDING, CalibrationSet
from searcher.healing.contract import Healing, Scope
from searcher.replay.batching import in_groups
from searcher.replay.repair import Place, Repair, ReplacementModule

ACTIONS: dict[Granularity, tuple[Action, ...]] = {
    Granularity.BLOCK: (Action.GONE,),
    Granularity.ATTENTION: (Action.NO_ATTENTION,),
    Granularity.FFN: (Action.NO_FFN,),
    Granularity.SUBLAYER: (Action.NO_ATTENTION, Action.NO_FFN, Action.GONE),
}
"""What plans of a granularity can do with a block, besides keeping it."""


@dataclass(frozen=True)
class Bias(Healing):
    """Replace every removed part by its mean update: the vector that it added on average, in the dense model.

    The first token of a window is left out: its states are hundreds of times as large as others, and a block that
    changes them would give its mean to all. On SmolLM2-135M without blocks 9-16 (held-out loss 5.12) the means without
    it heal to 5.06, those with it spoil the model (5.93).

    When to use it: in a search, where it costs next to nothing for each plan; or where no text can be spared to train.

    Source: the emulated update of Siddiqui et al. 2024, arXiv:2407.16286: b = E[block(h) - block_without_part(h)].

    Args:
        gate: drop each vector that, with that part alone removed, does not lower the loss of so many held-out windows,
            spread over their documents; 0 keeps all.
        first: whether the first token of a window counts in the means.
    """

    gate: Annotated[int, Field(ge=0)] = 8
    first: bool = False

    scope: ClassVar[Scope] = "unit"
    streams: ClassVar[bool] = True
    version: ClassVar[int] = 2  # 1 gated by the first held-out windows, of few documents

    def heal(self, calibration: CalibrationSet, plan: PrunePlan) -> Repair:
        """See :class:`Healing`."""
        actions = plan.actions(calibration.replay.num_blocks)
        return self._fit(calibration, {(block, action) for block, action in enumerate(actions) if action})

    def units(self, calibration: CalibrationSet, granularity: Granularity) -> Repair:
        """See :class:`Healing`."""
        blocks = range(calibration.replay.num_blocks)
        return self._fit(calibration, {(block, action) for block in blocks for action in ACTIONS[granularity]})

    def _fit(self, calibration: CalibrationSet, places: Collection[Place]) -> Repair:
        updates = mean_updates(calibration, places, self.first)
        after = {place: _shift(calibration, update) for place, update in updates.items() if update.isfinite().all()}
        if self.gate:
            helpful = find_helpful(calibration, after, self.gate)
            after = {place: replacement for place, replacement in after.items() if place in helpful}
        return Repair(after=after)


def mean_updates(calibration: CalibrationSet, places: Collection[Place], first: bool) -> dict[Place, Tensor]:
    """What each part adds on average over the tokens to fit on, in one pass of the dense model.

    Args:
        calibration: whose model and windows.
        places: which parts.
        first: whether the first token of a window counts.

    Returns:
        float64 (hidden size,) by place, ascending.
    """
    sums: dict[Place, Tensor] = {}
    tokens = 0
    for ids in in_groups(calibration.fit):
        real = ids != PADDING
        real[:, 0] &= first
        tokens += int(real.sum())
        for place, part, dense in _steps(calibration, ids, places):
            real = real.to(dense.device)
            added = (dense[real].double() - part[real].double()).sum(dim=0)
            sums[place] = sums[place] + added if place in sums else added
    return {place: total / tokens for place, total in sums.items()}


def find_helpful(calibration: CalibrationSet, after: dict[Place, ReplacementModule], windows: int) -> set[Place]:
    """Places whose replacement lowers the loss of so many held-out windows in the model that only misses that part."""
    without, with_it = (dict.fromkeys(after, 0.0) for _ in range(2))
    for ids in in_groups(calibration.some_held_out(windows)):
        for place, part, _ in _steps(calibration, ids, after):
            without[place] += rest_of_loss(calibration, part, place[0], ids)
            with_it[place] += rest_of_loss(
                calibration, calibration.replay.run_replacement(part, after[place]), place[0], ids
            )
    return {place for place in after if with_it[place] < without[place]}


def _steps(
    calibration: CalibrationSet, ids: Tensor, places: Collection[Place]
) -> Iterator[tuple[Place, Tensor, Tensor]]:
    """Each place with the states after its block without the part, and those after the whole block.

    Both are (rows, tokens, hidden size), of the dense model up to that block; ascending.
    """
    last = max((block for block, _ in places), default=-1)
    entering = calibration.replay.embed(ids.clamp(min=0))
    for block in range(last + 1):
        dense = calibration.run_block(entering, block, Action.KEEP)
        for action in Action:
            if (block, action) in places:
                yield (block, action), calibration.run_block(entering, block, action), dense
        entering = dense


def rest_of_loss(calibration: CalibrationSet, hidden: Tensor, block: int, ids: Tensor) -> float:
    """The summed loss of these tokens if the dense model goes on from the states after a block."""
    for later in range(block + 1, calibration.replay.num_blocks):
        hidden = calibration.run_block(hidden, later, Action.KEEP)
    calibration.meter.count(0.0, len(hidden))
    losses = calibration.replay.head.losses(hidden, ids.clamp(min=0))
    return float(losses[(ids[:, 1:] != PADDING).to(losses.device)].double().sum())


def _shift(calibration: CalibrationSet, update: Tensor) -> ReplacementModule:
    model = calibration.replay.model
    with torch.inference_mode(False):  # a parameter like any other, whoever uses it
        module = Shift(len(update)).requires_grad_(False)
        module.shift.copy_(update)
        return ReplacementModule(module.to(update.device, model.dtype))
