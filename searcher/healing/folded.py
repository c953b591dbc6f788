"""Every gap is made up for by the block before it: the linear map is folded into weights that the model has anyway."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NoReturn

from pydantic import Field
from torch import Tensor

from searcher.architecture.blocks import path_of
from searcher.contracts.plan import Action, Part, PrunePlan
from searcher.contracts.trie import plan_path
from searcher.errors import UsageError
from searcher.healing.calibration import PADDING, CalibrationSet, Meter
from searcher.healing.contract import Healing
from searcher.healing.gaps import choose, gap_ends
from searcher.healing.moments import RIDGES, Moments
from searcher.healing.projection import NotFoldedError, Projection, find_projection
from searcher.replay.batching import in_groups
from searcher.replay.block_inputs import first
from searcher.replay.repair import Repair


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

    streams: ClassVar[bool] = True

    ridge: Annotated[float, Field(gt=0)] | None = None

    plain_weights: ClassVar[str] = "its matrix is folded into them, and a product with packed weights is not packed"

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
            prefix = path_of(calibration.replay.model, projection.owner)
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
        place = calibration.replay.places[projection.block]
        moments = Moments.zeros(dense.width, place)
        for ids, entering, wanted in zip(pruned.texts[0], pruned.states[0], dense.states[0], strict=True):
            real, wanted = (ids != PADDING).to(place), wanted.to(place)
            added, leaving = run_with_ffn(calibration, entering, projection.block)
            moments.add(added[real], wanted[real].double() - leaving[real].double(), wanted[real])
        if not moments.finite:
            return {}
        ridges = RIDGES if self.ridge is None else (self.ridge,)
        changes = [projection.times(moments.ridge_map(ridge)) for ridge in ridges]

        def held_out() -> Iterator[tuple[Sequence[Tensor], Tensor]]:
            for ids, entering, wanted in zip(pruned.texts[1], pruned.states[1], dense.states[1], strict=True):
                real, wanted = (ids != PADDING).to(place), wanted.to(place)
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
    """Hidden states of the windows of a calibration set at one depth, in batches: those to fit on, those held out.

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


def _refuse(plan: PrunePlan, reason: str) -> NoReturn:
    raise UsageError(
        f"Healing 'linear-folded' cannot heal plan {plan}: {reason}", "Use linear, which needs no weights to fold into"
    )
