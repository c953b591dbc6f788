"""Prune plans: which blocks, attention sublayers and FFN sublayers of a model to remove.

Everything here is a small frozen value that prints and parses itself. This module imports only the
standard library, so that anything may import it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cached_property

from searcher.errors import UsageError

_DENSE_TEXT = "dense"
"""How the empty plan, the dense model, is written."""


class Granularity(StrEnum):
    """Which units a search may remove."""

    BLOCK = "block"
    ATTENTION = "attention"
    FFN = "ffn"
    SUBLAYER = "sublayer"


class Part(StrEnum):
    """What of a block a unit is: all of it, or one of its two sublayers."""

    BLOCK = "block"
    ATTENTION = "attn"
    FFN = "ffn"


class Action(IntEnum):
    """What a replay does with one block. The value is a sum of the sublayers removed."""

    KEEP = 0
    NO_ATTENTION = 1
    NO_FFN = 2
    GONE = 3


_ACTION_OF_PART = {Part.ATTENTION: Action.NO_ATTENTION, Part.FFN: Action.NO_FFN, Part.BLOCK: Action.GONE}
_PART_OF_ACTION = {action: part for part, action in _ACTION_OF_PART.items()}
_PARTS_OF_GRANULARITY = {
    Granularity.BLOCK: (Part.BLOCK,),
    Granularity.ATTENTION: (Part.ATTENTION,),
    Granularity.FFN: (Part.FFN,),
    Granularity.SUBLAYER: (Part.ATTENTION, Part.FFN),
}


@dataclass(frozen=True, order=True)
class Unit:
    """What a search removes in one step: `3` is block 3, `3.attn` its attention, `3.ffn` its FFN."""

    block: int
    part: Part = Part.BLOCK

    def __str__(self) -> str:
        return str(self.block) if self.part is Part.BLOCK else f"{self.block}.{self.part}"


@dataclass(frozen=True, order=True)
class PrunePlan:
    """A set of removed units in canonical form: sorted, each once, both sublayers of a block folded into it.

    Make one with :meth:`of` or :meth:`parse`; `PrunePlan()` removes nothing. Plans are hashable, ordered, and
    `PrunePlan.parse(str(plan)) == plan`.

    Example:
        >>> plan = PrunePlan.parse("9,3-5,12.attn,14.ffn,14.attn")
        >>> str(plan)
        '3-5,9,12.attn,14'
        >>> plan.size(Granularity.SUBLAYER)
        11
    """

    removed: tuple[Unit, ...] = ()

    @classmethod
    def of(cls, units: Iterable[Unit]) -> "PrunePlan":
        """The canonical plan that removes these units."""
        actions: dict[int, int] = {}
        for unit in units:
            if unit.block < 0:
                raise UsageError(f"Unit {unit} names a negative block", "Blocks are numbered from 0")
            actions[unit.block] = actions.get(unit.block, 0) | _ACTION_OF_PART[unit.part]
        return cls(tuple(Unit(block, _PART_OF_ACTION[Action(actions[block])]) for block in sorted(actions)))

    @classmethod
    def parse(cls, text: str) -> "PrunePlan":
        """Read a plan such as `3-5,9,12.attn,14.ffn`, or `dense`.

        Raises:
            UsageError: an item is not a block, a range of blocks or a sublayer.
        """
        if text.strip() in ("", _DENSE_TEXT):
            return cls()
        return cls.of(unit for item in text.split(",") for unit in _parse_item(item.strip(), text))

    def __str__(self) -> str:
        return ",".join(self._items()) or _DENSE_TEXT

    def _items(self) -> Iterator[str]:
        gone = [unit.block for unit in self.removed if unit.part is Part.BLOCK]
        first_of_span: dict[int, int] = {}
        for block in gone:  # a block that continues a span shares its start
            first_of_span[block] = first_of_span.get(block - 1, block)
        last_of_span = {first: block for block, first in first_of_span.items()}
        for unit in self.removed:
            if unit.part is not Part.BLOCK:
                yield str(unit)
            elif unit.block in last_of_span:
                last = last_of_span[unit.block]
                yield str(unit) if last == unit.block else f"{unit.block}-{last}"

    def units(self, granularity: Granularity) -> tuple[Unit, ...]:
        """The removed units as a search of this granularity counts them, sorted.

        Raises:
            UsageError: the plan removes something that no unit of this granularity stands for.
        """
        wanted = _PARTS_OF_GRANULARITY[granularity]
        expanded: list[Unit] = []
        for unit in self.removed:
            parts = wanted if unit.part is Part.BLOCK else (unit.part,)
            if unit.part not in wanted and not (unit.part is Part.BLOCK and granularity is Granularity.SUBLAYER):
                raise UsageError(
                    f"Plan {self} removes {unit}, which is no unit of granularity '{granularity}'",
                    f"A unit of this granularity is written {' or '.join(str(Unit(unit.block, p)) for p in wanted)}",
                )
            expanded.extend(Unit(unit.block, part) for part in parts)
        return tuple(expanded)

    def size(self, granularity: Granularity) -> int:
        """Number of removed units; a whole block counts 2 in a `sublayer` search."""
        return len(self.units(granularity))

    def remove(self, *units: Unit) -> "PrunePlan":
        """This plan with these units removed as well."""
        return PrunePlan.of((*self.removed, *units))

    @cached_property
    def _actions(self) -> dict[int, Action]:
        return {unit.block: _ACTION_OF_PART[unit.part] for unit in self.removed}

    def action(self, block: int) -> Action:
        """What a replay does with this block."""
        return self._actions.get(block, Action.KEEP)

    def actions(self, num_blocks: int) -> tuple[Action, ...]:
        """What a replay does with each of the blocks, in order: the plan's path through the trie."""
        return tuple(self.action(block) for block in range(num_blocks))

    def check(self, num_blocks: int) -> None:
        """Raises UsageError if the plan names a block that a model of this many blocks does not have."""
        beyond = [unit for unit in self.removed if unit.block >= num_blocks]
        if beyond:
            raise UsageError(
                f"Plan {self} names block {beyond[0].block}, but the model has {num_blocks} blocks",
                f"Blocks are numbered 0 to {num_blocks - 1}",
            )


DENSE = PrunePlan()
"""The plan that removes nothing."""


def _parse_item(item: str, text: str) -> Iterator[Unit]:
    match = re.fullmatch(r"(?P<first>\d+)(?:-(?P<last>\d+)|\.(?P<part>attn|ffn))?", item)
    if not match:
        raise UsageError(
            f"Plan '{text}': cannot read '{item}'",
            "Write blocks as 9, spans as 3-5, sublayers as 12.attn or 14.ffn, separated by commas",
        )
    first, last = int(match["first"]), int(match["last"] or match["first"])
    if last < first:
        raise UsageError(f"Plan '{text}': the span '{item}' runs backwards", f"Write it as {last}-{first}")
    part = Part(match["part"]) if match["part"] else Part.BLOCK
    return (Unit(block, part) for block in range(first, last + 1))


def all_units(num_blocks: int, granularity: Granularity) -> tuple[Unit, ...]:
    """Every unit that a search of this granularity may remove from a model of this many blocks, sorted."""
    return tuple(Unit(block, part) for block in range(num_blocks) for part in _PARTS_OF_GRANULARITY[granularity])


def legal_units(num_blocks: int, granularity: Granularity, keep: PrunePlan) -> tuple[Unit, ...]:
    """The units left to remove when those in `keep` are protected, sorted.

    A kept block protects both of its sublayers, and a kept sublayer its whole block from a block search.

    Raises:
        UsageError: `keep` names a block the model does not have.
    """
    keep.check(num_blocks)
    return tuple(
        unit for unit in all_units(num_blocks, granularity) if not keep.action(unit.block) & _ACTION_OF_PART[unit.part]
    )


@dataclass(frozen=True)
class Budget:
    """How much to remove: `8` units, `25%` of the legal units, or `1-8`, every size between."""

    text: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+|\d+-\d+|\d+(\.\d+)?%", self.text):
            raise UsageError(
                f"Budget '{self.text}' is not a number of units",
                "Write a number (8), a share of the units (25%) or a range (1-8)",
            )
        if self._share == 0 or (self._share is None and self._ends[0] < 1):
            raise UsageError(f"Budget '{self.text}' removes nothing", "Remove at least 1 unit")
        if self._share is None and self._ends[1] < self._ends[0]:
            first, last = self._ends
            raise UsageError(f"Budget '{self.text}' runs backwards", f"Write it as {last}-{first}")

    def __str__(self) -> str:
        return self.text

    @property
    def _share(self) -> float | None:
        return float(self.text[:-1]) / 100 if self.text.endswith("%") else None

    @property
    def _ends(self) -> tuple[int, int]:
        numbers = self.text.split("-")
        return int(numbers[0]), int(numbers[-1])

    def sizes(self, legal: int) -> tuple[int, ...]:
        """The sizes asked for, ascending, when this many units are legal.

        A share is rounded down, but is at least 1.

        Raises:
            UsageError: there are fewer legal units than asked for.
        """
        if self._share is not None:
            first = last = max(1, int(legal * self._share))
        else:
            first, last = self._ends
        if last > legal or (self._share or 0) > 1:
            raise UsageError(
                f"Budget '{self.text}' is larger than the {legal} units that can be removed here", "Ask for less"
            )
        return tuple(range(first, last + 1))
