"""Healings for tests: simple, and of every scope."""

import torch

from searcher.architecture.replacement_modules import LinearMap, Shift
from searcher.contracts.plan import Action
from searcher.contracts.trie import plan_path
from searcher.errors import UsageError
from searcher.healing.contract import DivergedError, Healing
from searcher.replay.repair import Repair, ReplacementModule


def shift(width, size, dtype):
    module = Shift(width)
    module.shift.data[:] = size * torch.linspace(-1, 1, width)
    return ReplacementModule(module.to(dtype).requires_grad_(False))


class Shifted(Healing):
    """Another vector after each block, by what is done with it."""

    scope = "unit"

    def units(self, calibration, granularity):
        replay = calibration.replay
        width, dtype = replay.model.config.hidden_size, replay.model.dtype
        return Repair(
            after={
                (b, a): shift(width, 0.01 * (b + 1) * a, dtype) for b in range(replay.num_blocks) for a in Action if a
            }
        )

    def heal(self, calibration, plan):
        return self.units(calibration, None).of(plan, calibration.replay.num_blocks)


class Turned(Healing):
    """A matrix at the end of each gap, made from what was removed before."""

    scope = "gap"

    def gaps(self, calibration, limit):
        return Corrections(calibration)

    def heal(self, calibration, plan):
        return Corrections(calibration).repair(plan)


class Corrections:
    def __init__(self, calibration):
        self.calibration = calibration

    def correction(self, prefix):
        assert prefix[-1] != Action.KEEP
        self.calibration.meter.count(1.0)
        model = self.calibration.replay.model
        if sum(prefix) % 3 == 0:
            return None
        module = LinearMap(model.config.hidden_size)
        generator = torch.Generator().manual_seed(sum(prefix) + len(prefix))
        module.weight.data += 0.01 * torch.randn(module.weight.shape, generator=generator)
        return ReplacementModule(module.to(model.dtype).requires_grad_(False))

    def repair(self, plan):
        path = plan_path(plan, self.calibration.replay.num_blocks)
        ends = [
            end
            for end in range(1, len(path) + 1)
            if path[end - 1] != Action.KEEP and (end == len(path) or path[end] == Action.KEEP)
        ]
        found = {(end - 1, Action(path[end - 1])): self.correction(path[:end]) for end in ends}
        return Repair(after={place: one for place, one in found.items() if one is not None})


class Failing(Healing):
    """Diverges on plans that remove block 1, and cannot heal those that remove block 2."""

    def heal(self, calibration, plan):
        if 1 in {unit.block for unit in plan.removed}:
            raise DivergedError("lost")
        raise UsageError("not this one")


class Memory(Healing):
    """Whatever the plan, it makes the windows it was fitted on likelier, by the worst kind of memory: their tokens."""

    def __init__(self, strength: float = 4.0):
        self.strength = strength

    def heal(self, calibration, plan):
        head = calibration.replay.model.get_output_embeddings().weight
        direction = torch.stack([head[token].float() for token in calibration.fit.flatten().tolist()]).mean(0)
        module = Shift(len(direction))
        module.shift.data = self.strength * direction / direction.norm()
        last = calibration.replay.num_blocks - 1
        return Repair(after={(last, plan.action(last)): ReplacementModule(module.to(head.dtype).requires_grad_(False))})
