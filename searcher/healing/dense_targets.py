"""What the dense model does on the windows of a calibration set, for losses that measure the distance from it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from searcher.contracts.plan import Action
from searcher.healing.calibration import CalibrationSet
from searcher.healing.losses import Loss
from searcher.replay.batching import rows_together
from searcher.replay.head_gradients import SoftTargets, soft_targets

KEPT = 1 << 30
"""Bytes of targets that are kept; where there are more, they are computed again for every step."""


@dataclass(frozen=True, eq=False)
class Targets:
    """The dense model on some windows.

    Attributes:
        soft: its next-token distributions; None if no loss needs them.
        states: (rows, tokens, hidden size) after each block that a loss compares.
    """

    soft: SoftTargets | None
    states: dict[int, Tensor]

    def select(self, rows: Sequence[int]) -> "Targets":
        """Those of some of the rows."""
        index = list(rows)
        return Targets(self.soft and self.soft.select(index), {b: state[index] for b, state in self.states.items()})


class DenseTargets:
    """Targets of windows, each computed once where all fit, in groups that do not depend on who asks first.

    The model must have its own weights whenever they are asked for.

    Args:
        calibration: whose model.
        loss: which needs them.
        blocks: whose states are compared, where the loss has `hidden`.
    """

    def __init__(self, calibration: CalibrationSet, loss: Loss, blocks: Collection[int]) -> None:
        self._calibration, self._loss = calibration, loss
        self._blocks = frozenset(blocks) if loss.hidden else frozenset()
        self._texts = {"fit": calibration.fit, "held-out": calibration.held_out}
        self._fit_in = bool(kept_bytes(calibration, loss))
        self._kept: dict[tuple[str, int], Targets] = {}

    def of(self, text: str, rows: Sequence[int]) -> Targets | None:
        """Those of some windows of a text, `fit` or `held-out`; None if the loss needs none."""
        if not self._loss.distils:
            return None
        if not self._fit_in:
            return self._compute(self._texts[text][list(rows)])
        size = rows_together(self._texts[text].shape[1], self._texts[text].device.type)
        return _joined([self._group(text, row // size, size).select([row % size]) for row in rows])

    def _group(self, text: str, number: int, size: int) -> Targets:
        if (text, number) not in self._kept:
            self._kept[text, number] = self._compute(self._texts[text][number * size : (number + 1) * size])
        return self._kept[text, number]

    @torch.no_grad()
    def _compute(self, ids: Tensor) -> Targets:
        calibration, replay = self._calibration, self._calibration.replay
        hidden, states = replay.embed(ids.clamp(min=0)), dict[int, Tensor]()
        for block in range(replay.num_blocks if self._loss.kl else max(self._blocks, default=-1) + 1):
            hidden = calibration.run_block(hidden, block, Action.KEEP)
            if block in self._blocks:
                states[block] = hidden
        if not self._loss.kl:
            return Targets(None, states)
        calibration.meter.count(0.0, 2 * len(ids))  # logits, and the product with the head's rows
        return Targets(soft_targets(replay.head, hidden.to(replay.exit), self._loss.temperature), states)


def kept_bytes(calibration: CalibrationSet, loss: Loss) -> int:
    """What the targets of all windows take, if no block is gone; 0 where that is too much, and they are not kept."""
    model, windows = calibration.replay.model, len(calibration.fit) + len(calibration.held_out)
    width = int(model.config.get_text_config(decoder=True).hidden_size)
    soft = (model.dtype.itemsize + 4) * width + 8 if loss.kl else 0
    states = calibration.replay.num_blocks * width * model.dtype.itemsize if loss.hidden else 0
    size = int(windows * calibration.fit.shape[1] * (soft + states))
    return size if size <= KEPT else 0


def most_target_rows(calibration: CalibrationSet, loss: Loss, asked: int) -> int:
    """How many windows the dense model runs at most, if so many are asked for in all."""
    if not loss.distils:
        return 0
    return len(calibration.fit) + len(calibration.held_out) if kept_bytes(calibration, loss) else asked


def _joined(parts: Sequence[Targets]) -> Targets:
    soft = [part.soft for part in parts if part.soft is not None]
    states = {block: torch.cat([part.states[block] for part in parts]) for block in parts[0].states}
    if not soft:
        return Targets(None, states)
    mean_rows = [one.mean_rows for one in soft if one.mean_rows is not None]
    together = SoftTargets(
        torch.cat([one.hidden for one in soft]),
        torch.cat([one.log_sums for one in soft]),
        torch.cat(mean_rows) if mean_rows else None,
        torch.cat([one.negative_entropy for one in soft]),
    )
    return Targets(together, states)
