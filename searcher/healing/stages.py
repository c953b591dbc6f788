"""The parts of a fit: all removals at once, or one after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from searcher.contracts.plan import Action, Part, PrunePlan, Unit

Where = Literal["all", "after"]
"""Which blocks are trained: all that stay, or the one after each gap."""


@dataclass(frozen=True)
class Stage:
    """A part of a fit.

    Attributes:
        plan: what is removed by then.
        blocks: which are trained, ascending.
        first: steps done before.
        steps: to do.
    """

    plan: PrunePlan
    blocks: tuple[int, ...]
    first: int
    steps: int


def plan_stages(plan: PrunePlan, num_blocks: int, steps: int, where: Where, iterative: bool) -> list[Stage]:
    """The plans that are healed one after another, the last of them the whole; only blocks it keeps are trained."""
    removals = len(plan.removed) if iterative and plan.removed else 1
    stages: list[Stage] = []
    for number in range(removals):
        done = PrunePlan(plan.removed[: number + 1]) if iterative else plan
        new = done.removed[-1:] if iterative else done.removed
        blocks = [b for b in range(num_blocks) if plan.action(b) is not Action.GONE]
        if where == "after" and plan.removed:
            blocks = sorted({_block_after(plan, unit, blocks) for unit in new} if blocks else ())
        first, last = (steps * n // removals for n in (number, number + 1))
        if blocks and last > first:
            stages.append(Stage(done, tuple(blocks), first, last - first))
    return stages


def _block_after(plan: PrunePlan, unit: Unit, kept: Sequence[int]) -> int:
    """The block that is given the hidden states which the unit no longer changes; the one before it, if none is."""
    first = unit.block if unit.part is Part.ATTENTION else unit.block + 1
    return next((block for block in kept if block >= first), kept[-1])
