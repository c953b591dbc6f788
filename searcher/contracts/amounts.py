"""What the parts of a model take, of parameters, bytes or FLOPs, and what a plan leaves of it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from searcher.contracts.plan import Part, PrunePlan, Unit


@dataclass(frozen=True)
class Amounts:
    """One kind of amount, such as parameters.

    Attributes:
        whole: of the dense model.
        block: of each whole block.
        attention: of the attention of each block, 0 where it has none.
        ffn: of the FFN of each block, 0 where it has none.
    """

    whole: float
    block: tuple[float, ...]
    attention: tuple[float, ...]
    ffn: tuple[float, ...]

    def of(self, unit: Unit) -> float:
        """What removing this unit saves."""
        by_part = {Part.BLOCK: self.block, Part.ATTENTION: self.attention, Part.FFN: self.ffn}
        return by_part[unit.part][unit.block]

    def removed(self, units: Iterable[Unit]) -> float:
        """What removing these units saves; the two sublayers of a block save what is theirs, not the whole block."""
        return sum(self.of(unit) for unit in units)

    def left(self, plan: PrunePlan) -> float:
        """What the plan leaves."""
        return self.whole - self.removed(plan.removed)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Amounts":
        """The inverse of :meth:`to_json`."""
        return cls(content["whole"], *(tuple(content[part]) for part in ("block", "attention", "ffn")))
