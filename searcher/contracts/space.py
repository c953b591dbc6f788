"""The space a search may move in: legal units, sizes and limits, and the plans that can be made of them."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import combinations, islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.plan import Granularity, Part, PrunePlan, Unit
from searcher.contracts.unit_counts import Counts, UnitCounts, with_one_more


class Fits(Protocol):
    """Whether measuring these plans, and then `spare` more of the costliest kind, stays inside the limits.

    The plans are measured on these windows, by default on all; the others always on all. Plans asked for together cost
    less, for they share their beginnings: `then` are such batches, asked one by one.
    """

    def __call__(  # noqa: D102
        self,
        plans: Sequence[PrunePlan],
        spare: int = 0,
        windows: Iterable[int] | None = None,
        *,
        then: Sequence[Sequence[PrunePlan]] = (),
    ) -> bool: ...


@dataclass(frozen=True)
class Need:
    """What must be saved of something that adds up over units, such as bytes of key-value cache.

    Attributes:
        savings: by unit, what its removal saves.
        least: what a plan must save in all.
    """

    savings: Mapping[Unit, float]
    least: float


MOST_NUMBERS = 60_000
"""Up to which plans are counted and drawn evenly: ways to combine kinds of units, times the number of kinds."""


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
        statistics: of the dense model, those that the strategy has declared; see `searcher.contracts.statistics`.
        goals: how many numbers each plan is scored by.
        most: how many attention or FFN sublayers a plan may remove at most, where that is limited.
        needs: what a plan of the full size must save. A smaller plan is legal while it can still be completed to one
            that does, so that a search which removes one unit after another is led to it; a larger one while it can be
            cut down to one that does.
        start: a plan to begin at, for strategies that begin at one; of a size that was asked for.
        racing: the accepted chance of dropping a best plan before it is measured in full; None for never. See
            `searcher.contracts.racing`.
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
        counts = Counter(unit.part for unit in self.units)
        return sum(min(count, self.most.get(part, count)) for part, count in counts.items())

    def rng(self) -> np.random.Generator:
        """A new generator of the strategy's seed: the only source of chance a strategy may use."""
        return np.random.default_rng(self.seed)

    def size_of(self, plan: PrunePlan) -> int:
        """How many units of this space the plan removes."""
        return plan.size(self.granularity)

    def allows(self, plan: PrunePlan) -> bool:
        """Whether the plan removes legal units only, no more of a kind than it may, and can meet the needs."""
        removed = plan.units(self.granularity)
        return all(unit in self._kind_of for unit in removed) and self._splits.legal(self._split_of(removed))

    def left(self, plan: PrunePlan) -> tuple[Unit, ...]:
        """The units that may still be removed from what the plan leaves, sorted."""
        removed = set(plan.units(self.granularity))
        free = tuple(unit for unit in self.units if unit not in removed)
        if self.all_legal:
            return free
        split = self._split_of(removed)
        legal = [self._splits.legal(with_one_more(split, kind)) for kind in range(len(split))]
        return tuple(unit for unit in free if legal[self._kind_of[unit]])

    def extensions(self, plan: PrunePlan) -> tuple[PrunePlan, ...]:
        """The plans that remove one unit more."""
        return tuple(plan.remove(unit) for unit in self.left(plan))

    def reductions(self, plan: PrunePlan) -> tuple[PrunePlan, ...]:
        """The legal plans that remove one unit less."""
        smaller = (self.restored(plan, unit) for unit in plan.units(self.granularity))
        return tuple(filter(self.allows, smaller))

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
        missing = (self.size if size is None else size) - self.size_of(plan)
        for unit in (*order, *self.units):
            if missing <= 0:
                break
            if unit in self.left(plan):
                plan, missing = plan.remove(unit), missing - 1
        return plan

    def sample(self, rng: np.random.Generator, size: int | None = None) -> PrunePlan:
        """A plan of this size (by default the full one) by chance: each legal one is as likely as any other.

        Where they are too many to be counted, see :data:`MOST_NUMBERS`, one unit after another is removed by chance.
        """
        table = self._table(self.size if size is None else size)
        if table is None:
            return self.filled(PrunePlan(), [self.units[i] for i in rng.permutation(len(self.units))], size)
        weights = np.array([float(count) for count in table.values()])
        split = list(table)[rng.choice(len(table), p=weights / weights.sum())]
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
        """How many legal plans of this size there are; where they are too many to be counted, `needs` are left out."""
        table = self._table(size)
        return dataclasses.replace(self, needs=()).count(size) if table is None else sum(table.values())

    def plans(self, size: int) -> Iterator[PrunePlan]:
        """Every legal plan of this size, in the order of its units."""
        return (PrunePlan.of(self.units[i] for i in chosen) for chosen in self._choices(size))

    @cached_property
    def removals(self) -> Callable[[int], NDArray[np.bool_]]:
        """By size: bool (plans, units), what each legal plan removes, in the order of :meth:`plans`; for few plans."""

        def listed(size: int) -> NDArray[np.bool_]:
            chosen = np.array(list(self._choices(size)), dtype=np.int64)
            removed = np.zeros((len(chosen), len(self.units)), dtype=np.bool_)
            np.put_along_axis(removed, chosen.reshape(len(chosen), size), True, axis=1)
            return removed

        return cache(listed)

    def swap_rule(self, removed: Iterable[int]) -> Callable[[int, int], bool]:
        """Whether the plan that removes the units at these positions may remove another in place of one of them."""
        kinds, split = self._kinds_in_order, self._split(removed)

        @cache
        def may(one: int, other: int) -> bool:
            counts = list(with_one_more(split, other))
            counts[one] -= 1
            return self._splits.legal(tuple(counts))

        return lambda one, other: self.all_legal or may(kinds[one], kinds[other])

    def _choices(self, size: int) -> Iterator[tuple[int, ...]]:
        """Every legal plan of this size as positions in `units`, in ascending order."""
        if self.all_legal:
            return combinations(range(len(self.units)), size)
        return self._continued((), (0,) * len(self._kinds), size)

    def _continued(self, chosen: tuple[int, ...], split: Counts, size: int) -> Iterator[tuple[int, ...]]:
        """Those that begin so; what leads to none is not tried."""
        if len(chosen) == size:
            yield from (chosen,) if self._splits.legal(split) else ()
            return
        for i in range(chosen[-1] + 1 if chosen else 0, len(self.units)):
            longer = with_one_more(split, self._kinds_in_order[i])
            if self._splits.reaches(longer, self._later[i + 1], size):
                yield from self._continued((*chosen, i), longer, size)

    @cached_property
    def all_legal(self) -> bool:
        """Whether any set of units may be removed."""
        smallest = (sum(sorted(need.savings[unit] for unit in self.units)[: self.size]) for need in self.needs)
        return self.size <= self.largest == len(self.units) and all(
            saved >= need.least for saved, need in zip(smallest, self.needs, strict=True)
        )

    @property
    def feasible(self) -> bool:
        """Whether there is a legal plan of the full size."""
        return self.allows(PrunePlan())

    def most_saved(self, need: Need) -> float:
        """The most that a plan of the full size can save of this, if nothing else is needed."""
        alone = dataclasses.replace(self, needs=(Need(need.savings, math.inf),))
        return alone._splits.most_saved(0)

    @cached_property
    def _kinds(self) -> tuple[tuple[Unit, ...], ...]:
        """The units by part, and those of a part by what they save."""
        kinds: dict[object, list[Unit]] = {}
        for unit in self.units:
            kinds.setdefault((unit.part, tuple(need.savings[unit] for need in self._pressing)), []).append(unit)
        return tuple(map(tuple, kinds.values()))

    @property
    def _pressing(self) -> tuple[Need, ...]:
        """The needs that are not met by removing nothing."""
        return tuple(need for need in self.needs if need.least > 0)

    @cached_property
    def _splits(self) -> UnitCounts:
        return UnitCounts(
            parts=tuple(units[0].part for units in self._kinds),
            counts=tuple(map(len, self._kinds)),
            savings=tuple(tuple(need.savings[units[0]] for units in self._kinds) for need in self._pressing),
            least=tuple(need.least for need in self._pressing),
            most=self.most,
            size=self.size,
        )

    @cached_property
    def _kind_of(self) -> dict[Unit, int]:
        return {unit: kind for kind, units in enumerate(self._kinds) for unit in units}

    @cached_property
    def _kinds_in_order(self) -> tuple[int, ...]:
        return tuple(self._kind_of[unit] for unit in self.units)

    @cached_property
    def _later(self) -> tuple[Counts, ...]:
        """How many units of each kind there are from each position on."""
        return tuple(self._split(range(i, len(self.units))) for i in range(len(self.units) + 1))

    def _split(self, positions: Iterable[int]) -> Counts:
        return self._split_of(self.units[i] for i in positions)

    def _split_of(self, removed: Iterable[Unit]) -> Counts:
        counts = [0] * len(self._kinds)
        for unit in removed:
            counts[self._kind_of[unit]] += 1
        return tuple(counts)

    @cached_property
    def _table(self) -> Callable[[int], dict[Counts, int] | None]:
        """By size: how many legal plans there are of each split; None where these are too many."""
        return cache(self._counted)

    def _counted(self, size: int) -> dict[Counts, int] | None:
        most = MOST_NUMBERS // max(1, len(self._kinds))
        splits = list(islice(self._splits.of_size(size), most + 1))
        if len(splits) > most:
            return None
        return {s: math.prod(math.comb(len(u), n) for u, n in zip(self._kinds, s, strict=True)) for s in splits}
