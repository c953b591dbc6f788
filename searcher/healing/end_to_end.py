"""A pruned model that is trained as a whole: forward through the blocks that stay, a loss, and the way back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from searcher.contracts.plan import Action, PrunePlan
from searcher.healing.calibration import PADDING, CalibrationSet, Meter
from searcher.healing.dense_targets import DenseTargets, Targets, kept_bytes, most_target_rows
from searcher.healing.losses import HiddenError, Loss
from searcher.healing.trainable import Trainable
from searcher.healing.training import BACKWARD, Task, TrainingOptions, most_rows, train
from searcher.healing.training_room import Passes, plan_passes, told
from searcher.replay.batching import in_groups
from searcher.replay.head_gradients import head_gradient
from searcher.replay.repair import Repair
from searcher.replay.replay import Replay, repaired

TINY = 1e-6
"""Keeps a relative error finite."""


@dataclass(frozen=True, eq=False)
class Ends:
    """Where a forward pass of the pruned model leaves its states.

    Attributes:
        last: (rows, tokens, hidden size) after the last block.
        inner: the same after each block that a loss compares.
    """

    last: Tensor
    inner: Mapping[int, Tensor]


class EndToEnd:
    """The pruned model with what is trained in it.

    Args:
        calibration: the model and the windows.
        plan: what is removed.
        trainable: what is trained.
        loss: what is minimised.
        passes: how many windows go through the model together, and what is kept for the way back.
        others: what has been healed before, and is not trained on.
    """

    def __init__(
        self,
        calibration: CalibrationSet,
        plan: PrunePlan,
        trainable: Trainable,
        loss: Loss,
        passes: Passes,
        others: Repair | None = None,
    ) -> None:
        self._calibration, self._plan, self._trainable, self._loss = calibration, plan, trainable, loss
        self._passes, self._others = passes, (others or Repair()).merged(calibration.replay.model)
        self._actions = plan.actions(calibration.replay.num_blocks)
        self._compared = frozenset(b for b, action in enumerate(self._actions) if action is not Action.GONE)
        self._dense = DenseTargets(calibration, loss, self._compared)

    def backward(self, rows: Tensor) -> float:
        """Leave the gradients of these windows' mean loss in the parameters, and return that loss."""
        calibration, labels = self._calibration, self._labels("fit", rows)
        counted = (labels[:, 1:] != PADDING).sum().clamp(min=1)
        total, gradients = 0.0, [torch.zeros_like(parameter) for parameter in self._trainable.parameters]
        for part in torch.split(rows, self._passes.rows):
            targets, own = self._dense.of("fit", part.tolist()), self._labels("fit", part)
            share = float((own[:, 1:] != PADDING).sum() / counted)
            ids = calibration.fit[part.to(calibration.fit.device)]
            with repaired(calibration.replay, self._others), self._trainable.in_place():
                loss, found = self._gradients(ids, own, targets)
            for gradient, one in zip(gradients, found, strict=True):
                if one is not None:
                    gradient.add_(one.float(), alpha=share)
            total += share * loss
        for parameter, gradient in zip(self._trainable.parameters, gradients, strict=True):
            parameter.grad = gradient
        forwards = 1 + BACKWARD + (1 if self._passes.checkpointed else 0)
        calibration.count_forward(self._plan, len(rows), heads=self._loss.at_head_counts, passes=forwards)
        calibration.meter.tokens += int((labels >= 0).sum())
        return total

    @torch.no_grad()
    def held_out(self) -> float:
        """The mean loss on the held-out windows, with what is trained merged into the weights as it will be."""
        calibration, whole = self._calibration, self._others | self._trainable.repair()
        if not self._loss.distils:
            return self._loss.text * calibration.loss(self._plan, whole)
        labels = self._labels("held-out", torch.arange(len(calibration.held_out)))
        counted, total, first = (labels[:, 1:] != PADDING).sum().clamp(min=1), 0.0, 0
        for ids in in_groups(calibration.held_out):
            part, first = list(range(first, first + len(ids))), first + len(ids)
            targets, own = self._dense.of("held-out", part), labels[part]
            with repaired(calibration.replay, whole):
                ends = self._run(ids, checkpointed=False)
                loss = self._inner_loss(ends, targets, own) + self._head(ends.last, own, targets)[0]
            total += float(loss) * float((own[:, 1:] != PADDING).sum() / counted)
        calibration.count_forward(self._plan, len(labels), heads=self._loss.at_head_counts)
        return total

    def _labels(self, text: str, rows: Tensor) -> Tensor:
        """What is learnt from these windows."""
        calibration = self._calibration
        rows = rows.to(calibration.fit.device)
        return calibration.labels(rows) if text == "fit" else calibration.held_out_labels[rows]

    def _gradients(self, ids: Tensor, labels: Tensor, targets: Targets | None) -> tuple[float, list[Tensor | None]]:
        """The mean loss of these windows and its gradients by what the model runs."""
        ends = self._run(ids, self._passes.checkpointed)
        loss, by_last = self._head(ends.last, labels, targets)
        outputs, given = [ends.last], [by_last]
        inner = self._inner_loss(ends, targets, labels)
        if inner.requires_grad:
            outputs, given = [*outputs, inner], [*given, torch.ones_like(inner)]
        if not ends.last.requires_grad:  # nothing that is trained lies on the way
            return loss + float(inner), [None for _ in self._trainable.parameters]
        found = torch.autograd.grad(outputs, self._trainable.running(), given, allow_unused=True)
        return loss + float(inner.detach()), list(found)

    def _run(self, ids: Tensor, checkpointed: bool) -> Ends:
        replay, inner = self._calibration.replay, dict[int, Tensor]()
        hidden, run = replay.embed(ids.clamp(min=0)), _checkpointed if checkpointed else _plainly
        for block, action in enumerate(self._actions):
            hidden = run(partial(_block, replay, block, action), hidden)
            if self._loss.hidden and block in self._compared:
                inner[block] = hidden
        return Ends(hidden.to(replay.exit), inner)

    def _head(self, last: Tensor, labels: Tensor, targets: Targets | None) -> tuple[float, Tensor]:
        if not self._loss.at_head_counts:
            return 0.0, torch.zeros_like(last)
        soft = None if targets is None else targets.soft
        return head_gradient(self._calibration.replay.head, last, labels, self._loss.at_head, soft)

    def _inner_loss(self, ends: Ends, targets: Targets | None, labels: Tensor) -> Tensor:
        """Mean over blocks and tokens of the distance from the dense states."""
        if not ends.inner or targets is None:
            return torch.zeros((), device=ends.last.device)
        errors = [
            hidden_error(state, targets.states[block], self._loss.match)[(labels != PADDING).to(state.device)].mean()
            for block, state in ends.inner.items()
        ]
        mean = torch.stack([error.to(ends.last.device) for error in errors]).mean()
        return self._loss.hidden * mean


@dataclass(frozen=True)
class Part:
    """Where a training stands that is a part of a longer fit.

    Attributes:
        first: steps done before.
        steps: of the whole fit.
        others: what has been healed before, and is not trained on.
    """

    first: int
    steps: int
    others: Repair = field(default_factory=Repair)


def train_end_to_end(
    calibration: CalibrationSet,
    plan: PrunePlan,
    trainable: Trainable,
    loss: Loss,
    options: TrainingOptions,
    part: Part | None = None,
) -> None:
    """Train in the memory there is, saying how; the parameters end as they were at the best check.

    Raises:
        UsageError: the memory is not enough.
        DivergedError: a loss is no finite number.
    """
    part = part or Part(0, options.steps)
    targets = kept_bytes(calibration, loss)
    passes, needed = plan_passes(calibration, plan, trainable, options.batch, options.name, targets)
    calibration.say(told(trainable, calibration, passes, needed))
    student = EndToEnd(calibration, plan, trainable, loss, passes, part.others)
    train(calibration, Task(trainable.parameters, student.backward, student.held_out, part.first, part.steps), options)


def most_work_of(calibration: CalibrationSet, options: TrainingOptions, loss: Loss, blocks: float, steps: int) -> Meter:
    """The most that a training runs, with states inside blocks computed once, which memory may not allow.

    Args:
        calibration: has the windows.
        options: how it trains.
        loss: what it minimises.
        blocks: that a window goes through.
        steps: of the whole fit, of which this may be a part; 0 if nothing is trained.
    """
    work = Meter()
    if not steps:
        return work
    trained, checked = most_rows(options, steps, len(calibration.fit), len(calibration.held_out))
    work.count(blocks * (trained + checked), float(trained + checked) if loss.at_head_counts else 0.0)
    rows = most_target_rows(calibration, loss, trained // (1 + BACKWARD) + checked)
    work.count(calibration.replay.num_blocks * rows, 2.0 * rows if loss.kl else 0.0)
    return work


def hidden_error(state: Tensor, wanted: Tensor, match: HiddenError) -> Tensor:
    """float32 (rows, tokens): how far states are from those of the dense model; (rows, tokens, hidden size) each."""
    state, wanted = state.float(), wanted.to(state.device).float()
    if match == "cosine":
        return 1 - F.cosine_similarity(state, wanted, dim=-1, eps=TINY)
    return (state - wanted).square().sum(dim=-1) / wanted.square().sum(dim=-1).clamp(min=TINY)


def _block(replay: Replay, block: int, action: Action, hidden: Tensor) -> Tensor:
    return replay.run_block(hidden, block, action)


def _plainly(run: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    return run(hidden)


def _checkpointed(run: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """What a block computes is not kept, but computed again on the way back (Chen et al. 2016, arXiv:1604.06174)."""
    after: Tensor = checkpoint(run, hidden, use_reentrant=False, preserve_rng_state=False)
    return after
