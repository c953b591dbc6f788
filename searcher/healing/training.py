"""The training loop of the healings that train: AdamW, and checks on text that nothing is fitted on."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from searcher.healing.calibration import CalibrationSet, Check
from searcher.healing.contract import DivergedError
from searcher.healing.unfinished import Best, Fit, keep_fit, resume

CHECKS = 10
"""How often at most the held-out windows are looked at in the course of a fit, besides before its first step."""
CHECKING = 0.25
"""What the checks may cost besides, as a share of the training."""
LARGEST_GRADIENT = 1.0
"""The norm that the gradients of all parameters together are cut down to."""
BACKWARD = 2
"""Forward passes that a backward pass counts as."""
TIMED = 2
"""Steps that are timed to tell how long all will take."""
WORTH_TELLING = 60.0
"""Seconds of a fit from which on its length is told beforehand."""
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        name: of the healing, for errors.
        steps: at most.
        batch: windows in a step.
        lr: the learning rate after it has risen; from there it falls to `min_lr` along half a cosine.
        min_lr: the learning rate after the last step.
        weight_decay: of AdamW.
        patience: checks in a row that may be no better than the best one before the fit ends; 0 for any number.
        seed: draws the order of the windows.
    """

    name: str
    steps: int
    batch: int
    lr: float
    min_lr: float
    weight_decay: float
    patience: int
    seed: int

    def lr_at(self, step: int) -> float:
        """The learning rate of a step; steps count from 0."""
        rising = math.ceil(WARM_UP * self.steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        done = (step - rising) / max(1, self.steps - rising)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True, eq=False)
class Task:
    """What to train, and on what.

    Attributes:
        parameters: float32, to be trained.
        backward: given int64 (batch,) numbers of windows to fit on, leaves the gradients of their mean loss in the
            parameters and returns that loss.
        held_out: the loss on the held-out windows.
        first: steps done before this training, where it is a part of a longer fit; the order of windows goes on.
        steps: of the whole fit, which those who watch are told.
    """

    parameters: Sequence[nn.Parameter]
    backward: Callable[[Tensor], float]
    held_out: Callable[[], float]
    first: int
    steps: int


def train(calibration: CalibrationSet, task: Task, options: TrainingOptions) -> float:
    """Train the parameters; they end as they were at the best check, which may be the one before the first step.

    Call it outside of inference mode, with gradients on. Where the calibration set keeps unfinished fits, it goes on
    where this one was left, and ends, on a CPU, with the same bits.

    Args:
        calibration: has the windows to fit on; is told of the checks, and asked at every step whether to go on.
        task: what to train.
        options: how.

    Returns:
        The best loss on the held-out windows.

    Raises:
        DivergedError: a loss is no finite number.
    """
    optimizer = torch.optim.AdamW(task.parameters, lr=options.lr, weight_decay=options.weight_decay)
    fit = Fit(optimizer, Best(task.parameters), [])
    begun = resume(calibration, task.first, fit)
    order = islice(shuffled(len(calibration.fit), options.batch, options.seed), task.first + begun, None)
    every = steps_between_checks(task.steps, options.batch, len(calibration.held_out))
    clock = _Clock(options.steps - begun, every)
    for step in range(begun, options.steps + 1):
        if (step % every == 0 or step == options.steps) and fit.checked != step:
            fit.best.offer(_check(calibration, task, options, step, fit.losses))
            fit.losses.clear()
            fit.checked = step
        keep_fit(calibration, task.first, step, fit)
        if step == options.steps or 0 < options.patience <= fit.best.in_vain:
            break
        calibration.go_on()
        for group in optimizer.param_groups:
            group["lr"] = options.lr_at(step)
        clock.step(calibration)
        fit.losses.append(_finite(task.backward(next(order)), task, options, step))
        torch.nn.utils.clip_grad_norm_(task.parameters, LARGEST_GRADIENT)
        optimizer.step()
        optimizer.zero_grad()
    fit.best.restore()
    return fit.best.loss


def steps_between_checks(steps: int, batch: int, held_out: int) -> int:
    """How many steps there are from one check to the next.

    Args:
        steps: of the whole fit.
        batch: windows in a step, each of which costs a forward and a backward pass.
        held_out: windows in a check, each of which costs a forward pass.
    """
    affordable = CHECKING * (1 + BACKWARD) * batch * steps / max(1, held_out)
    return max(1, math.ceil(steps / min(CHECKS, max(1, round(affordable)))))


def most_rows(options: TrainingOptions, steps: int, fit: int, held_out: int) -> tuple[int, int]:
    """The windows that :func:`train` runs at most: forwards and backwards as forward passes, and in checks.

    Args:
        options: how it trains.
        steps: of the whole fit, of which this training may be a part.
        fit: windows to fit on.
        held_out: windows in a check.
    """
    every = steps_between_checks(steps, options.batch, held_out)
    checks = (options.steps - 1) // every + 2 if options.steps else 1
    return (1 + BACKWARD) * min(options.batch, fit) * options.steps, checks * held_out


def shuffled(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Numbers below `count` in random order, without end and `batch` at a time: each once before any comes again.

    A batch may hold the last of one round and the first of the next. There are never more at a time than there are.

    Yields:
        int64 (batch,), on the CPU.
    """
    generator, waiting = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.int64)
    batch = min(batch, count)
    while True:
        if len(waiting) < batch:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:batch]
        waiting = waiting[batch:]


def _check(
    calibration: CalibrationSet, task: Task, options: TrainingOptions, step: int, fitted: Sequence[float]
) -> float:
    held_out = _finite(task.held_out(), task, options, step)
    mean = sum(fitted) / len(fitted) if fitted else math.nan
    calibration.watch(Check(task.first + step, task.steps, mean, held_out))
    return held_out


def _finite(loss: float, task: Task, options: TrainingOptions, step: int) -> float:
    if math.isfinite(loss):
        return loss
    if step == 0:  # nothing has been learnt yet
        raise DivergedError(
            f"Healing '{options.name}' cannot begin: the plan's loss is {loss}", "Heal a plan that leaves a model"
        )
    raise DivergedError(
        f"Healing '{options.name}' diverged at step {task.first + step} (loss {loss})",
        f"Lower its learning rate, for example lr={options.lr / 10:g}",
    )


class _Clock:
    """Says how long a fit will take as soon as two steps have shown it; what is over in a minute is not told of.

    Args:
        steps: to do.
        every: from one check to the next.
    """

    def __init__(self, steps: int, every: int) -> None:
        self._steps, self._every = steps, every
        self._begun = time.monotonic()
        self._starts: list[float] = []

    def step(self, calibration: CalibrationSet) -> None:
        """A step begins."""
        if len(self._starts) > TIMED:
            return
        self._starts.append(time.monotonic())
        if len(self._starts) > TIMED:
            step = (self._starts[-1] - self._starts[0]) / TIMED
            check = self._starts[0] - self._begun  # the first one came before the first step
            seconds = (self._steps - TIMED) * (step + check / self._every)
            if seconds > WORTH_TELLING:
                calibration.say(
                    f"{self._steps} steps of about {step:.1f} s and a check of {check:.1f} s every {self._every}: "
                    f"at most about {math.ceil(seconds / 60)} min"
                )
