"""Fits that were ended in the middle, kept so that they go on where they were: on a CPU with the same bits."""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from searcher.healing.calibration import CalibrationSet
from searcher.runs.files import replacing

EVERY = 30.0
"""Seconds of a fit that may be lost, where writing takes no time."""
NAME = "unfinished-{stage}.pt"
"""Of the files."""
WRITING = 20
"""How many times longer than writing took last the fit goes on before it is written again."""


class Best:
    """The parameters at the best check.

    Attributes:
        loss: there.
        in_vain: checks since.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.state: list[Tensor] = []
        self.loss, self.in_vain = math.inf, 0

    def offer(self, loss: float) -> None:
        """Keep the parameters as they are now if this loss is the lowest."""
        if loss < self.loss:
            self.loss, self.in_vain = loss, 0
            self.state = [parameter.detach().clone() for parameter in self.parameters]
        else:
            self.in_vain += 1

    @torch.no_grad()
    def restore(self) -> None:
        """Give the parameters the values they had."""
        for parameter, value in zip(self.parameters, self.state, strict=True):
            parameter.copy_(value)


@dataclass(eq=False)
class Fit:
    """A fit between two steps.

    Attributes:
        optimizer: of it.
        best: parameters at the best check.
        losses: of the steps since the last check.
        checked: the step before which the last check was; -1 for none.
        written: when it was kept last, by `time.monotonic`.
        writing: how long that took, in seconds.
    """

    optimizer: torch.optim.Optimizer
    best: Best
    losses: list[float]
    checked: int = -1
    written: float = field(default_factory=time.monotonic)
    writing: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """All that it depends on, as tensors and numbers."""
        return {
            "parameters": [parameter.detach() for parameter in self.best.parameters],
            "optimizer": self.optimizer.state_dict(),
            "best": {"state": self.best.state, "loss": self.best.loss, "in_vain": self.best.in_vain},
            "losses": self.losses,
            "checked": self.checked,
        }

    @torch.no_grad()
    def load(self, kept: dict[str, Any]) -> None:
        """Be as that was.

        Raises:
            ValueError: it is of another fit.
        """
        for parameter, value in zip(self.best.parameters, kept["parameters"], strict=True):
            if parameter.shape != value.shape:
                raise ValueError("another shape")
            parameter.copy_(value)
        self.optimizer.load_state_dict(kept["optimizer"])
        best = kept["best"]["state"]  # nothing before the first check
        self.best.state = [value.to(p.device) for value, p in zip(best, self.best.parameters, strict=bool(best))]
        self.best.loss, self.best.in_vain = kept["best"]["loss"], kept["best"]["in_vain"]
        self.losses, self.checked = list(kept["losses"]), kept["checked"]


def keep_fit(calibration: CalibrationSet, stage: int, step: int, fit: Fit) -> None:
    """Write a fit down if so much time has passed that losing it would hurt; a disk that is full is no reason to end.

    Args:
        calibration: knows where, and has the meter.
        stage: the first step of this part of a longer fit.
        step: steps done in this part.
        fit: as it is now.
    """
    begun = time.monotonic()
    if calibration.unfinished is None or begun - fit.written < max(EVERY, WRITING * fit.writing):
        return
    meter = vars(calibration.meter) | {"seconds_before": calibration.meter.seconds_before + begun - calibration.begun}
    content = {"step": step, "fit": fit.to_dict(), "meter": meter}
    with suppress(OSError):
        calibration.unfinished.mkdir(parents=True, exist_ok=True)
        with replacing(_file(calibration.unfinished, stage)) as temporary:
            torch.save(content, temporary)
    fit.written = time.monotonic()
    fit.writing = fit.written - begun


def resume(calibration: CalibrationSet, stage: int, fit: Fit) -> int:
    """Make the fit as it was kept, and say how many steps it had done; 0 if nothing whole was."""
    if calibration.unfinished is None:
        return 0
    before = fit.to_dict()
    before = {**before, "parameters": [value.clone() for value in before["parameters"]]}
    try:
        kept = torch.load(_file(calibration.unfinished, stage), weights_only=True)
        fit.load(kept["fit"])
        vars(calibration.meter).update(kept["meter"])
        return int(kept["step"])
    except FileNotFoundError:
        return 0
    except Exception:  # a damaged file may fail in any way; the fit begins anew
        fit.load(before)
        return 0


def forget_fits(folder: Path | None) -> None:
    """What was kept of a plan's fits is no longer needed."""
    if folder is None:
        return
    with suppress(OSError):
        for file in folder.glob(NAME.format(stage="*")):
            file.unlink()
        folder.rmdir()  # unless a repair is kept in it


def _file(folder: Path, stage: int) -> Path:
    return folder / NAME.format(stage=stage)
