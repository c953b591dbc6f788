"""A healing of which it is known how well every plan does after so many steps, and the objective that shows it."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from searcher.healing.calibration import Meter
from searcher.healing.contract import Healing
from searcher.objective import Objective
from searcher.replay.repair import Repair, ReplacementModule

SCORES = {2: (1, 2, 4, 5, 6, 3), 4: (2, 3, 4, 5, 6, 1), 8: (2, 5, 6, 4, 1, 3)}
"""By steps: what plans without block 0, 1, … score; lower is better. At 8 steps block 4 does best, at 2 it does worst."""
CONTROL = 0.5
LOG, DEATH = "healed.log", "die"
"""A line for each healing that was begun; if there is a file of the second name, the process dies at that line."""


class Constant(nn.Module):
    """Gives every token the same hidden state."""

    def __init__(self, state):
        super().__init__()
        self.state = nn.Parameter(state, requires_grad=False)

    def forward(self, hidden):
        return self.state.expand_as(hidden)


@dataclass(frozen=True)
class Stepped(Healing):
    """Makes hidden states as long as the plan scores after so many steps, in a direction that suits any text."""

    steps: int = 8

    def heal(self, calibration, plan):
        told = f"{plan} {self.steps}"
        with open(LOG, "a") as log:
            log.write(f"{told}\n")
        if Path(DEATH).exists() and Path(DEATH).read_text() == told:
            time.sleep(0.3)  # in which what was measured before reaches the disk
            os.kill(os.getpid(), signal.SIGKILL)
        calibration.meter.count(self.steps * calibration.replay.num_blocks)
        last = calibration.replay.num_blocks - 1
        state = score(plan, self.steps) * common(calibration)
        return Repair(after={(last, plan.action(last)): ReplacementModule(Constant(state))})

    def most_work(self, calibration, plan):
        return Meter(layer_forwards=self.steps * calibration.replay.num_blocks)


def score(plan, steps):
    """That of a plan of several blocks is the sum."""
    return sum(SCORES[steps][unit.block] for unit in plan.removed) if plan.removed else CONTROL


def common(calibration):
    """The direction of length 1 that makes the tokens of the heal split likely."""
    head = calibration.replay.model.get_output_embeddings().weight.float()
    direction = head[calibration.fit.flatten()].mean(0) - head.mean(0)
    return direction / direction.norm()


class Length(Objective):
    """How long hidden states are."""

    unit = "units"

    def measure(self, candidate):
        return torch.linalg.vector_norm(candidate.hidden().float(), dim=-1).mean(dim=1).double().cpu().numpy()


class Unsteady(Healing):
    """Has no steps."""

    def heal(self, calibration, plan):
        return Repair()
