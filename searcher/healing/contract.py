"""The contract of a healing: from a model and a plan to what mends it, fitted on text of the heal split.

    class Warmer(Healing):
        '''Every removed block is replaced by a vector of ones.'''

        def heal(self, calibration, plan):
            ...
            return Repair(after={(block, Action.GONE): ReplacementModule(Shift(width))})

The options are the parameters of `__init__`, as with strategies and objectives. A healing is a function of its options,
the model, the plan and the text it is given: no state between plans, chance only from its own seed.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError

if TYPE_CHECKING:  # keeps the names of healings free of torch
    from searcher.contracts.trie import Path
    from searcher.healing.calibration import CalibrationSet, Meter
    from searcher.replay.repair import Place, Repair, ReplacementModule
    from searcher.replay.replay import Replay

Scope = Literal["unit", "gap", "plan"]
"""What a repair depends on: each removed unit alone; the plan up to where a gap ends; or the whole plan.

Healings of the first two kinds are part of every score of a search; those of the last re-rank a shortlist.
"""


class DivergedError(UsageError):
    """A fit ran away: its loss is no number, or grows without end. In a search the plan counts as broken."""


class Gaps(Protocol):
    """What stands after the gaps of plans: fitted where a gap ends, and the same for all plans that start so."""

    def correction(self, prefix: "Path") -> "ReplacementModule | None":
        """What stands at the end of this prefix, whose last block ends a gap; None for nothing."""

    def repair(self, plan: PrunePlan) -> "Repair":
        """All of a plan."""


class Healing(ABC):
    """Derive from it, document the class in one line, and name it as `path/to/file.py:Class`."""

    scope: ClassVar[Scope] = "plan"
    version: ClassVar[int] = 1
    """Raised where the same options give another repair than before: runs and kept repairs of both do not mix."""
    streams: ClassVar[bool] = False
    """Whether it can do with weights that are in memory only while their block runs."""
    fits_held_out: ClassVar[bool] = False
    """Whether it is fitted to the held-out windows as well, in the end, so that their loss says less than it seems."""
    plain_weights: ClassVar[str] = ""
    """Why the weights of blocks must not be quantised, the end of a sentence; empty where they may be."""

    @property
    def predicts(self) -> bool:
        """Whether it learns from tokens, and only from those that `CalibrationSet.labels` leaves."""
        return False

    @abstractmethod
    def heal(self, calibration: "CalibrationSet", plan: PrunePlan) -> "Repair":
        """Fit a repair for this plan.

        Args:
            calibration: the model and the text to fit on; its model must be as it was when this returns.
            plan: what is removed; the empty plan asks for a control, the dense model healed the same way.

        Raises:
            UsageError: this plan or model cannot be healed so.
            DivergedError: the fit ran away.
        """

    def check(self, calibration: "CalibrationSet") -> None:  # noqa: B027 - most refuse no model
        """Refuse, before a search begins, a model of which no plan could be healed so; by default none.

        Raises:
            UsageError: with the reason.
        """

    def most_work(self, calibration: "CalibrationSet", plan: PrunePlan) -> "Meter | None":
        """For scope `plan`: the most that `heal` runs for this plan, which limits count; None: it cannot be told.

        Early stopping and the like are left out of it, since it must be known before.
        """
        return None

    def shortened(self, share: float) -> "Healing | None":
        """For scope `plan`: the same with this share of its steps, as early rounds of a search use it.

        By default that is known of dataclasses with a whole number of `steps`. None: it cannot be shortened.

        Args:
            share: above 0 and at most 1.
        """
        own: Any = self
        steps = getattr(own, "steps", None)
        if not is_dataclass(type(self)) or not isinstance(steps, int):
            return None
        shorter: Healing = replace(own, steps=min(steps, max(1, int(steps * share))))
        return shorter

    def memory(self, calibration: "CalibrationSet") -> int:
        """For scope `plan`: bytes that healing any plan takes beside the model, within the room of the calibration set.

        Asked before the first plan, so that a search leaves that room; 0 where it is next to nothing, or not known.

        Raises:
            UsageError: there is not so much room.
        """
        return 0

    def replacements(self, replay: "Replay", plan: PrunePlan) -> "Mapping[Place, ReplacementModule]":
        """For scope `plan`: what will stand after blocks once the plan is healed, nothing by default.

        Sizes count it in a search, before any plan is healed; so it needs no values: blocks of the model as they are,
        and other modules on the device `meta`.
        """
        return {}

    def units(self, calibration: "CalibrationSet", granularity: Granularity) -> "Repair":
        """For scope `unit`: what stands after each block for anything that plans of this granularity do with it."""
        raise NotImplementedError(f"{type(self).__name__} has scope '{self.scope}'")

    def rows(self, calibration: "CalibrationSet") -> float:
        """For scope `gap`: the windows that every plan is run on besides those it is measured on; all by default."""
        return float(len(calibration.fit) + len(calibration.held_out))

    def gaps(self, calibration: "CalibrationSet", limit: int) -> Gaps:
        """For scope `gap`: the corrections of plans, which may keep so many bytes."""
        raise NotImplementedError(f"{type(self).__name__} has scope '{self.scope}'")
