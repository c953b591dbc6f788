"""What a checkpoint has been through: a model that was pruned, perhaps healed, and pruned again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from searcher.architecture.custom_model import read_notes
from searcher.contracts.plan import PrunePlan, Unit

Origin = tuple[int | None, ...]
"""Of each block of a checkpoint, its number in the model that was pruned first; None for one that healing put in."""


@dataclass(frozen=True)
class Step:
    """One pruning.

    Attributes:
        model: that was pruned.
        plan: what was removed, in the numbering of that model.
        healing: how it was healed, empty if it was not.
        of_original: the plan in the numbering of the model that was pruned first; None where it removes something that
            healing had put in.
    """

    model: str
    plan: str
    healing: str
    of_original: str | None


@dataclass(frozen=True)
class History:
    """All prunings of a checkpoint, the first one first, and where its blocks come from."""

    steps: tuple[Step, ...] = ()
    origin: Origin | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, to keep with the notes."""
        return {"history": [asdict(step) for step in self.steps], "origin": self.origin}

    def then(
        self, model: str, plan: PrunePlan, healing: str, sources: Sequence[int | None], num_blocks: int
    ) -> "History":
        """With one more pruning.

        Args:
            model: that was pruned, which has this history.
            plan: what was removed.
            healing: how it was healed, empty if it was not.
            sources: of each block that there is now, its number in the model; None for one that healing put in.
            num_blocks: of the model.
        """
        known = self.origin if self.origin is not None and len(self.origin) == num_blocks else None
        origin: Origin = tuple(range(num_blocks)) if not self.steps else known or (None,) * num_blocks
        step = Step(model, str(plan), healing, _renamed(plan, origin))
        return History((*self.steps, step), tuple(None if one is None else origin[one] for one in sources))


def history_of(folder: Path | None) -> History:
    """What the notes of a checkpoint say; of a folder without any, that there was no pruning.

    Raises:
        UsageError: the notes are damaged.
    """
    notes: Mapping[str, Any] = read_notes(folder) if folder else {}
    steps = tuple(Step(**step) for step in notes.get("history", ()))
    origin = notes.get("origin")
    return History(steps, None if origin is None else tuple(origin))


def _renamed(plan: PrunePlan, origin: Origin) -> str | None:
    """The plan in the numbering of the original; None where it cannot be said."""
    blocks = [(origin[unit.block], unit.part) for unit in plan.removed]
    if any(block is None for block, _ in blocks):
        return None
    return str(PrunePlan.of(Unit(block, part) for block, part in blocks if block is not None))
