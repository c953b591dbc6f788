"""Healing one plan: fitted on the heal split, kept only if it helps on the part of it that was held out."""

import time
from dataclasses import dataclass, replace

from searcher.healing.contract import Healing
from searcher.healing.patient import Meter, Patient
from searcher.plan import PrunePlan
from searcher.repair import Repair


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
    """

    repair: Repair
    dropped: bool
    before: float
    after: float
    work: Meter
    seconds: float


def heal_plan(healing: Healing, patient: Patient, plan: PrunePlan) -> Healed:
    """Fit a healing to a plan; the empty plan is the control, the dense model healed the same way.

    Raises:
        UsageError: the plan or model cannot be healed so.
        DivergedError: the fit ran away.
    """
    started, work = time.monotonic(), Meter()
    patient = replace(patient, meter=work)
    before = patient.loss(plan, Repair())
    repair = healing.heal(patient, plan)
    after = patient.loss(plan, repair) if repair else before
    helps = after < before
    return Healed(
        repair=repair if helps else Repair(),
        dropped=bool(repair) and not helps,
        before=before,
        after=after,
        work=work,
        seconds=time.monotonic() - started,
    )
