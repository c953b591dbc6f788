"""Healing one plan: fitted on the heal split, kept only if it helps on the part of it that was held out."""

import time
from dataclasses import dataclass, replace

from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.healing.calibration import CalibrationSet, Meter
from searcher.healing.contract import DivergedError, Healing
from searcher.replay.repair import Repair


@dataclass(frozen=True, eq=False)
class Healed:
    """A healed plan.

    Attributes:
        repair: what healing changes; nothing where that would not have helped.
        dropped: whether something was fitted that did not help on the held-out windows.
        before: mean next-token loss on the held-out windows without the repair, in nats.
        after: the same with what was fitted.
        work: what was run for it.
        seconds: how long it took.
        failure: why there is no repair, where the plan cannot be healed so or the fit ran away.
        diverged: whether the fit ran away.
        in_sample: whether the repair was fitted to the held-out windows, too, of which the losses are.
    """

    repair: Repair
    dropped: bool
    before: float
    after: float
    work: Meter
    seconds: float
    failure: str = ""
    diverged: bool = False
    in_sample: bool = False


def most_work(healing: Healing, calibration: CalibrationSet, plan: PrunePlan) -> Meter | None:
    """The most that :func:`heal_plan` runs; None where the healing cannot tell, 0 where it refuses the plan."""
    try:
        work = healing.most_work(calibration, plan)
    except UsageError:
        work = Meter()
    if work is not None:
        work.count_passes(2 * calibration.blocks_of(plan), len(calibration.held_out))
        work.count(0.0, len(calibration.held_out))
    return work


def heal_plan(healing: Healing, calibration: CalibrationSet, plan: PrunePlan) -> Healed:
    """Fit a healing to a plan; the empty plan is the control, the dense model healed the same way."""
    started, work = time.monotonic(), Meter()
    calibration = replace(calibration, meter=work, begun=started)
    before = calibration.loss(plan, Repair())
    try:
        repair = healing.heal(calibration, plan)
    except UsageError as error:
        diverged, seconds = isinstance(error, DivergedError), time.monotonic() - started + work.seconds_before
        return Healed(Repair(), False, before, before, work, seconds, str(error), diverged)
    after = calibration.loss(plan, repair) if repair else before
    helps = after < before
    return Healed(
        repair=repair if helps else Repair(),
        dropped=bool(repair) and not helps,
        before=before,
        after=after,
        work=work,
        seconds=time.monotonic() - started + work.seconds_before,
        in_sample=healing.fits_held_out and bool(repair),
    )
