"""The space a search may move in: legal units, sizes and limits, and the plans that can be made of them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from searcher.plan import Granularity, Part, PrunePlan, Unit


class Fits(Protocol):
    """Whether measuring these plans, and then `spare` more of the costliest kind, stays inside the limits."""

    def __call__(self, plans: Sequence[PrunePlan], spare: int = 0) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Need:
    """What must be saved of something that adds up over units, such as bytes of key-value cache.

    Attributes:
        savings: by unit, what its removal saves.
        least: what a plan must save in all.
    """

    savings: Mapping[Unit, float]
    least: float


Split = tuple[int, ...]
"""How many units of each kind a plan removes."""

MOST_KINDS = 8
"""Kinds of units that are told apart; a model of more counts each of them as the one of its part that saves least."""


@dataclass(frozen=True)
class Space:
    """What a search may do.

    Attributes:
        num_blocks: blocks of the model.
        granularity: what the units are.
        units: the units that may be removed, sorted; protected ones are not among them.
        sizes: the sizes asked for, ascending; the search is for the last, and for the others where it can.
        num_windows: search windows, numbered from 0.
        seed: of the strategy's own random generator.
        fits: see :class:`Fits`; a batch that does not fit is not run.
        limited: whether there is a limit to what may be measured; a strategy that could go on for ever must then do so.
        statistics: of the dense model, those that the strategy has declared; see `searcher.statistics`.
        goals: how many numbers each plan is scored by.
        most: how many attention or FFN sublayers a plan may remove at most, where that is limited.
        needs: what a plan of the full size must save. A smaller plan is legal while it can still be completed to one
            that does, so that a search which removes one unit after another is led to it.
        start: a plan to begin at, for strategies that begin at one; of a size that was asked for.
        racing: the accepted chance of dropping a best plan before it is measured in full; None for never. See
            `searcher.racing`.
        screening: the share of plans that a race begins with, the best by the screening loss; None for all.
    """

    num_blocks: int
    granularity: Granularity
    units: tuple[Unit, ...]
    sizes: tuple[int, ...]
    num_windows: int
    seed: int
    fits: Fits
    limited: bool = False
    statistics: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    goals: int = 1
    most: Mapping[Part, int] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    start: PrunePlan | None = None
    racing: float | None = None
    screening: float | None = None

    @property
    def size(self) -> int:
        """The full size asked for."""
        return self.sizes[-1]

    @property
    def largest(self) -> int:
        """The largest size that a legal plan can have."""
        return sum(min(len(units), self.most.get(part, len(units))) for part, units in self._by_part().items())

    def rng(self) -> np.random.Generator:
        """A new generator of the strategy's seed: the only source of chance a strategy may use."""
        return np.random.default_rng(self.seed)

    def size_of(self, plan: PrunePlan) -> int:
        """How many units of this space the plan removes."""
        return plan.size(self.granularity)

    def allows(self, plan: PrunePlan) -> bool:
        """Whether the plan removes legal units only, no more of a kind than it may, and can meet the needs."""
        removed = plan.units(self.granularity)
        return (
            set(self.units).issuperset(removed)
            and all(sum(unit.part is part for unit in removed) <= most for part, most in self.most.items())
            and self._leads_to_needs(self._split_of(removed))
        )

    def left(self, plan: PrunePlan) -> tuple[Unit, ...]:
        """The units that may still be removed from what the plan leaves, sorted."""
        removed = set(plan.units(self.granularity))
        spent = {part for part, most in self.most.items() if sum(u.part is part for u in removed) >= most}
        free = tuple(unit for unit in self.units if unit not in removed and unit.part not in spent)
        if not self.needs:
            return free
        split = self._split_of(removed)
        bad = {i for i in range(len(split)) if not self._leads_to_needs((*split[:i], split[i] + 1, *split[i + 1 :]))}
        return tuple(unit for unit in free if self._kind_of[unit] not in bad)

    def extensions(self, plan: PrunePlan) -> tuple[PrunePlan, ...]:
        """The plans that remove one unit more."""
        return tuple(plan.remove(unit) for unit in self.left(plan))

    def reductions(self, plan: PrunePlan) -> tuple[PrunePlan, ...]:
        """The plans that remove one unit less."""
        return tuple(self.restored(plan, unit) for unit in plan.units(self.granularity))

    def restored(self, plan: PrunePlan, *units: Unit) -> PrunePlan:
        """The plan with these removals undone."""
        return PrunePlan.of(unit for unit in plan.units(self.granularity) if unit not in units)

    def swaps(self, plan: PrunePlan) -> Iterator[PrunePlan]:
        """The plans that undo one removal and make another."""
        for unit in plan.units(self.granularity):
            smaller = self.restored(plan, unit)
            yield from (smaller.remove(other) for other in self.left(smaller) if other != unit)

    def filled(self, plan: PrunePlan, order: Iterable[Unit], size: int | None = None) -> PrunePlan:
        """The plan, filled up to a size (by default the full one) with the units that come first in this order.

        A unit that may not be removed is passed over; if the order ends too soon, the rest comes in unit order.
        """
        missing = (size or self.size) - self.size_of(plan)
        for unit in (*order, *self.units):
            if missing <= 0:
                break
            if unit in self.left(plan):
                plan, missing = plan.remove(unit), missing - 1
        return plan

    def sample(self, rng: np.random.Generator, size: int | None = None) -> PrunePlan:
        """A plan of this size (by default the full one), uniform among all that are legal."""
        splits = dict(self._splits(size or self.size))
        weights = np.array([float(count) for count in splits.values()])
        split = list(splits)[rng.choice(len(splits), p=weights / weights.sum())]
        chosen = zip(self._kinds, split, strict=True)
        return PrunePlan.of(units[i] for units, n in chosen for i in rng.choice(len(units), n, replace=False))

    def swapped(self, rng: np.random.Generator, plan: PrunePlan, count: int) -> PrunePlan:
        """The plan with this many removals, chosen by chance, replaced by others."""
        removed = plan.units(self.granularity)
        gone = [removed[i] for i in rng.choice(len(removed), min(count, len(removed)), replace=False)]
        plan = self.restored(plan, *gone)
        for _ in gone:
            choices = [unit for unit in self.left(plan) if unit not in gone] or self.left(plan)
            plan = plan.remove(choices[rng.integers(len(choices))])
        return plan

    def count(self, size: int) -> int:
        """How many legal plans of this size there are."""
        return sum(count for _, count in self._splits(size))

    def plans(self, size: int) -> Iterator[PrunePlan]:
        """Every legal plan of this size, in the order of its units."""
        for units in combinations(self.units, size):
            if self.allows(plan := PrunePlan.of(units)):
                yield plan

    def _by_part(self) -> dict[Part, list[Unit]]:
        parts = dict.fromkeys(unit.part for unit in self.units)
        return {part: [unit for unit in self.units if unit.part is part] for part in parts}

    @cached_property
    def _kinds(self) -> tuple[tuple[Unit, ...], ...]:
        """The units by part, and those of a part by what they save."""
        kinds: dict[object, list[Unit]] = {}
        for unit in self.units:
            kinds.setdefault((unit.part, tuple(need.savings[unit] for need in self.needs)), []).append(unit)
        found = kinds.values() if len(kinds) <= MOST_KINDS else self._by_part().values()
        return tuple(map(tuple, found))

    @cached_property
    def _kind_of(self) -> dict[Unit, int]:
        return {unit: kind for kind, units in enumerate(self._kinds) for unit in units}

    def _split_of(self, removed: Iterable[Unit]) -> Split:
        counts = [0] * len(self._kinds)
        for unit in removed:
            counts[self._kind_of[unit]] += 1
        return tuple(counts)

    def _leads_to_needs(self, split: Split) -> bool:
        """Whether plans of this split can be completed, or cut down, to the full size and save what is needed."""
        if not self.needs:
            return True
        pairs = (zip(split, full, strict=True) for full in self._full_splits)
        if sum(split) <= self.size:
            return any(all(one <= other for one, other in pair) for pair in pairs)
        return any(all(one >= other for one, other in pair) for pair in pairs)

    @cached_property
    def _full_splits(self) -> tuple[Split, ...]:
        """The splits of the full size that save what is needed."""
        least = [[min(need.savings[unit] for unit in units) for units in self._kinds] for need in self.needs]
        return tuple(
            split
            for split in self._all_splits(self.size)
            if all(
                sum(n * saved for n, saved in zip(split, savings, strict=True)) >= need.least * (1 - 1e-9)
                for need, savings in zip(self.needs, least, strict=True)
            )
        )

    def _all_splits(self, size: int) -> Iterator[Split]:
        """The splits of this size that keep to `most`."""
        amounts = (range(min(len(units), size) + 1) for units in self._kinds)
        parts = [units[0].part for units in self._kinds]
        for split in product(*amounts):
            if sum(split) == size and all(
                sum(n for n, part in zip(split, parts, strict=True) if part is limited) <= most
                for limited, most in self.most.items()
            ):
                yield split

    def _splits(self, size: int) -> Iterator[tuple[Split, int]]:
        """The splits that a legal plan of this size may have, and how many such plans there are."""
        for split in self._all_splits(size):
            if self._leads_to_needs(split):
                yield split, math.prod(math.comb(len(u), n) for u, n in zip(self._kinds, split, strict=True))
