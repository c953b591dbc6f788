"""How many units of each kind a plan may remove, so that it can still lead to one that keeps to all limits.

Units of one kind are of one part and save the same, so that what is legal depends on these numbers alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.plan import Part

Counts = tuple[int, ...]
"""How many units of each kind a plan removes."""

LISTED = 20_000
"""Up to which the splits of the full size are listed to find those that meet several needs: their number, times that of
the kinds. Beyond, a solver looks for one."""
REMEMBERED = 2**17
"""Answers kept, since the same few come up again and again."""


@dataclass(frozen=True, eq=False)
class UnitCounts:
    """Which splits are legal.

    Attributes:
        parts: of each kind, the part that its units are.
        counts: how many units there are of each kind.
        savings: for each need, what removing a unit of each kind saves.
        least: for each need, what a plan of the full size must save; positive.
        most: how many units of a part may be removed, where that is limited.
        size: the full size.
    """

    parts: tuple[Part, ...]
    counts: Counts
    savings: tuple[tuple[float, ...], ...]
    least: tuple[float, ...]
    most: Mapping[Part, int]
    size: int

    @cached_property
    def legal(self) -> Callable[[Counts], bool]:
        """Whether plans of this split keep to the limits, and can be completed or cut down to the full size so."""
        return lru_cache(maxsize=REMEMBERED)(lambda split: self.reaches(split, (0,) * len(split), sum(split)))

    def reaches(self, split: Counts, later: Counts, size: int) -> bool:
        """Whether plans of this size, of this split and some more of the units counted in `later`, may be legal.

        Sure for the full size, and where there is nothing to add; for other sizes it may err towards yes.
        """
        together = tuple(a + b for a, b in zip(split, later, strict=True))
        if sum(together) < size:
            return False
        if size > self.size:
            return self._keeps_to_most(split) and self.between((0,) * len(split), together)
        missing = self.size - size
        return self.between(split, tuple(min(a + missing, b) for a, b in zip(together, self.counts, strict=True)))

    def of_size(self, size: int) -> Iterator[Counts]:
        """Every legal split of this size, in ascending order."""
        return self._continued((), size)

    def _continued(self, head: Counts, size: int) -> Iterator[Counts]:
        """Those that begin so."""
        kind, nothing = len(head), (0,) * (len(self.counts) - len(head))
        if not nothing:
            yield from (head,) if self.legal(head) else ()
            return
        for count in range(min(self.counts[kind], size - sum(head)) + 1):
            later = (0,) * (kind + 1) + self.counts[kind + 1 :]
            if self.reaches((*head, count, *nothing[1:]), later, size):
                yield from self._continued((*head, count), size)

    @cached_property
    def between(self) -> Callable[[Counts, Counts], bool]:
        """Whether a split of the full size, at least the first and at most the second, keeps to all limits."""
        return lru_cache(maxsize=REMEMBERED)(self._is_between)

    def most_saved(self, need: int) -> float:
        """The most that a split of the full size can save of one need, the others left aside; there must be one."""
        best = self._dearest((0,) * len(self.counts), self.counts, self.savings[need])
        assert best is not None, "the full size is more than may be removed"
        return _saved(best, self.savings[need])

    def _is_between(self, low: Counts, high: Counts) -> bool:
        if not self.savings:
            return self._dearest(low, high, low) is not None
        for savings, least in zip(self.savings, self.least, strict=True):
            best = self._dearest(low, high, savings)
            if best is None or not _reaches(_saved(best, savings), least):
                return False
            if self._meets_needs(best):
                return True
        if self._listed is None:
            return self._is_solvable(low, high)
        return bool(((self._listed >= low) & (self._listed <= high)).all(axis=1).any())

    def _dearest(self, low: Counts, high: Counts, worth: Sequence[float]) -> Counts | None:
        """The split of the full size between these that is worth most and keeps to `most`; None if there is none.

        Greedy is exact here, for the limits are on parts, which share no unit.
        """
        room = {part: most - self._removed(low, part) for part, most in self.most.items()}
        missing = self.size - sum(low)
        if any(left < 0 for left in room.values()):
            return None
        found = list(low)
        for kind in sorted(range(len(low)), key=lambda kind: -worth[kind]):
            part = self.parts[kind]
            more = min(high[kind] - low[kind], missing, room.get(part, missing))
            found[kind] += more
            missing -= more
            if part in room:
                room[part] -= more
        return tuple(found) if missing == 0 else None

    def _removed(self, split: Counts, part: Part) -> int:
        return sum(count for count, other in zip(split, self.parts, strict=True) if other is part)

    def _keeps_to_most(self, split: Counts) -> bool:
        return all(self._removed(split, part) <= most for part, most in self.most.items())

    def _meets_needs(self, split: Counts) -> bool:
        pairs = zip(self.savings, self.least, strict=True)
        return all(_reaches(_saved(split, savings), least) for savings, least in pairs)

    @cached_property
    def _listed(self) -> NDArray[np.int64] | None:
        """int64 (splits, kinds): all of the full size that keep to the limits; None where they are too many to list."""
        free, most = replace(self, savings=(), least=()), LISTED // len(self.counts)
        splits = list(islice(free.of_size(self.size), most + 1))
        if len(splits) > most:
            return None
        return np.array(list(filter(self._meets_needs, splits)), dtype=np.int64).reshape(-1, len(self.counts))

    def _is_solvable(self, low: Counts, high: Counts) -> bool:
        """The same by integer programming: the need that is met worst is met as well as can be."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        kinds, limited = len(low), list(self.most)
        share = np.array(self.savings) / np.array(self.least)[:, None]
        of_part = np.array([[part is other for other in self.parts] for part in limited]).reshape(-1, kinds)
        amounts = np.vstack([np.ones(kinds), of_part, share])
        last = np.concatenate([np.zeros(1 + len(limited)), -np.ones(len(share))])
        lower = [self.size, *np.zeros(len(limited)), *np.zeros(len(share))]
        upper = [self.size, *self.most.values(), *np.full(len(share), np.inf)]
        found = milp(
            np.array([*np.zeros(kinds), -1.0]),
            integrality=np.array([*np.ones(kinds), 0.0]),
            bounds=Bounds([*low, -np.inf], [*high, np.inf]),
            constraints=LinearConstraint(np.column_stack([amounts, last]), lower, upper),
            options={"mip_rel_gap": 0.0},
        )
        return found.x is not None and self._meets_needs(tuple(found.x[:kinds].round().astype(int).tolist()))


def with_one_more(split: Counts, kind: int) -> Counts:
    """The split with one more unit of a kind."""
    return (*split[:kind], split[kind] + 1, *split[kind + 1 :])


def _saved(split: Counts, savings: Sequence[float]) -> float:
    return sum(count * saved for count, saved in zip(split, savings, strict=True))


def _reaches(saved: float, least: float) -> bool:
    return saved >= least * (1 - 1e-9)
