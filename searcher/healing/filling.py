"""Gaps of removed blocks, the states around them, and a replacement for one while it is trained."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from searcher.contracts.plan import Action, Part, PrunePlan
from searcher.errors import UsageError
from searcher.healing.calibration import PADDING, CalibrationSet
from searcher.healing.training import BACKWARD
from searcher.replay.batching import in_groups
from searcher.replay.repair import Place, ReplacementModule

TINY = 1e-6
"""Keeps a relative error finite."""

RemovedSpan = tuple[int, int]
"""The first and the last of consecutive removed blocks."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """What enters a gap and what should leave it.

    Attributes:
        entering: (windows, tokens, hidden size) of the plan, with the gaps before this one filled.
        leaving: the same of the dense model, after the gap's last block.
        real: bool (windows, tokens), False for padding.
    """

    entering: Tensor
    leaving: Tensor
    real: Tensor

    def batches(self) -> Iterator["Pairs"]:
        """The windows in groups that are run together."""
        parts = (in_groups(tensor) for tensor in (self.entering, self.leaving, self.real))
        return (Pairs(*part) for part in zip(*parts, strict=True))


class Filling:
    """A replacement while it is trained, as a float32 copy.

    Args:
        calibration: whose model runs it.
        replacement: as it will stand.
        gap: in which.
        fit: states to fit on.
        held_out: states to check it on.
        error: see :class:`Replacement`.
    """

    def __init__(
        self,
        calibration: CalibrationSet,
        replacement: ReplacementModule,
        gap: RemovedSpan,
        fit: Pairs,
        held_out: Pairs,
        error: str,
    ) -> None:
        self._calibration, self._replacement, self._fit, self._held_out, self._error = (
            calibration,
            replacement,
            fit,
            held_out,
            error,
        )
        self.learner = copy.deepcopy(replacement.module).float().requires_grad_(True)
        self._running = ReplacementModule(
            self.learner if replacement.like is None else _InFloat32(self.learner), replacement.like
        )
        self._price = count_parameters(self.learner) / count_parameters(
            calibration.replay.architecture.blocks[gap[0]]
        )  # in blocks

    def backward(self, rows: Tensor) -> float:
        """Leave the gradients of these windows' mean error in the learner, and return that error."""
        rows = rows.to(self._fit.real.device)
        pairs = Pairs(self._fit.entering[rows], self._fit.leaving[rows], self._fit.real[rows])
        error = self._errors(pairs).mean()
        error.backward()  # type: ignore[no-untyped-call]
        self._calibration.meter.count((1 + BACKWARD) * self._price * len(rows))
        self._calibration.meter.tokens += int(pairs.real.sum())
        return error.item()

    @torch.no_grad()
    def held_out_error(self) -> float:
        """The mean error on the held-out windows."""
        errors = [self._errors(pairs) for pairs in self._held_out.batches()]
        self._calibration.meter.count(self._price * len(self._held_out.real))
        return float(torch.cat(errors).double().mean())

    def learnt(self) -> ReplacementModule:
        """The replacement with what was learnt, in the dtypes that it has."""
        self._replacement.module.load_state_dict(self.learner.state_dict())
        return self._replacement

    def _errors(self, pairs: Pairs) -> Tensor:
        """float32 (real tokens,): the squared distance of what leaves from what should."""
        wanted = pairs.leaving.float()
        left = self._calibration.replay.run_replacement(pairs.entering.float(), self._running).to(wanted.device)
        errors = (left - wanted).square().mean(dim=-1)
        if self._error == "relative":
            errors = errors / wanted.square().mean(dim=-1).clamp(min=TINY)
        return errors[pairs.real]


class _InFloat32(nn.Module):
    """A block in float32, which is handed masks and positions in the model's dtype."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(_widened, (args, kwargs))
        return self.block(*args, **kwargs)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def find_gaps(name: str, plan: PrunePlan) -> list[RemovedSpan]:
    """The runs of consecutive blocks that a plan removes, ascending.

    Args:
        name: of the healing, for the error.
        plan: of whole blocks.

    Raises:
        UsageError: it removes a sublayer of a block that stays.
    """
    gaps: list[RemovedSpan] = []
    for unit in plan.removed:
        if unit.part is not Part.BLOCK:
            raise UsageError(
                f"Healing '{name}' fills gaps of whole blocks, but plan {plan} removes {unit}",
                "Heal plans that remove sublayers with lora or bias",
            )
        joins = bool(gaps) and gaps[-1][1] == unit.block - 1
        gaps.append((gaps.pop()[0] if joins else unit.block, unit.block))
    return gaps


def walk_gaps(
    calibration: CalibrationSet, gaps: Sequence[RemovedSpan], after: Mapping[Place, ReplacementModule]
) -> Iterator[tuple[RemovedSpan, Pairs, Pairs]]:
    """Every gap with the states around it, for the windows to fit on and for those held out.

    Args:
        calibration: whose model and windows.
        gaps: ascending.
        after: what stands in the gaps; a gap's is looked up when the next one is asked for.
    """
    replay, texts = calibration.replay, (calibration.fit, calibration.held_out)
    dense = [calibration.dense_states(ids, [last for _, last in gaps]) for ids in texts]
    states = [[replay.embed(batch) for batch in in_groups(ids.clamp(min=0))] for ids in texts]
    block = 0
    for first, last in gaps:
        for kept in range(block, first):
            states = [[calibration.run_block(hidden, kept, Action.KEEP) for hidden in batches] for batches in states]
        entering = [torch.cat(batches) for batches in states]
        fit, held_out = (
            Pairs(inside, outside[last].to(inside.device), (ids != PADDING).to(inside.device))
            for inside, outside, ids in zip(entering, dense, texts, strict=True)
        )
        yield (first, last), fit, held_out
        replacement, block = after[last, Action.GONE], last + 1
        states = [[replay.run_replacement(hidden, replacement) for hidden in batches] for batches in states]


def count_parameters(module: nn.Module) -> int:
    """How many a module has."""
    return sum(parameter.numel() for parameter in module.parameters())
