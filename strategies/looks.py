"""What a search has seen: plans measured side by side, a few windows at a time."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.plan import PrunePlan
from searcher.contracts.scoreboard import largest, removal_matrix
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Scores

CLIP = 4.0
"""Residuals are clipped at so many of their median size before their variance is taken: a plan that breaks the model
varies far more from window to window than those a search chooses between."""


@dataclass(frozen=True)
class Look:
    """Plans measured side by side on the same windows.

    Attributes:
        plans: which.
        windows: on which windows.
        means: float64 (plans,), over these windows; `inf` for a plan that breaks the model.
        by_window: float64 (plans, windows), NaN where the goal is not measured by window.
    """

    plans: tuple[PrunePlan, ...]
    windows: tuple[int, ...]
    means: NDArray[np.float64]
    by_window: NDArray[np.float64]


@dataclass
class Looks:
    """All looks of a search, oldest first.

    Attributes:
        space: of the search.
        taken: the looks.
        places: by windows that were looked at together, the number of that set of windows.
    """

    space: Space
    taken: list[Look] = field(default_factory=list)
    places: dict[tuple[int, ...], int] = field(default_factory=dict)
    _seen: set[tuple[PrunePlan, int]] = field(default_factory=set)
    _rows: dict[PrunePlan, NDArray[np.float64]] = field(default_factory=dict)
    _known: dict[int, dict[PrunePlan, None]] = field(default_factory=dict)

    def look(
        self,
        plans: Iterable[PrunePlan],
        windows: Sequence[int],
        spare: int = 0,
        then: Sequence[Sequence[PrunePlan]] = (),
    ) -> Generator[Ask, Scores, None]:
        """Measure these plans on these windows, as many of them as the limits allow, the first ones first.

        Args:
            plans: what to measure; those that were seen on these windows together before are passed over.
            windows: on which windows.
            spare: how many plans in full, whatever they are, must fit the limits afterwards.
            then: batches of plans that must fit too, in full.

        Raises:
            SearchStopped: nothing more fits.
        """
        wanted = tuple(self.new(dict.fromkeys(plans), windows))
        if not wanted:
            return
        fitting = largest(lambda count: self.space.fits(wanted[:count], spare, windows, then=then), len(wanted))
        # nothing fits: ask, to be told which limit it is
        every = len(windows) == self.space.num_windows
        self._take((yield Ask(wanted[:fitting] or wanted, None if every else tuple(windows))), tuple(windows))

    def new(self, plans: Iterable[PrunePlan], windows: Sequence[int]) -> list[PrunePlan]:
        """Those of the plans that were not seen on these windows together before."""
        place = self.places.get(tuple(windows))
        return [plan for plan in plans if (plan, place) not in self._seen]

    def _take(self, answer: Scores, windows: tuple[int, ...]) -> None:
        place = self.places.setdefault(windows, len(self.places))
        self.taken.append(Look(answer.plans, windows, answer.first, answer.per_window[:, 0, list(windows)]))
        for plan in answer.plans:
            self._seen.add((plan, place))
            self._known.setdefault(self.space.size_of(plan), {})[plan] = None

    @property
    def measured(self) -> int:
        """Plans times windows that were looked at."""
        return sum(len(look.plans) * len(look.windows) for look in self.taken)

    def known(self, size: int) -> list[PrunePlan]:
        """The plans of this size that were looked at, in the order of the first look."""
        return list(self._known.get(size, ()))

    def removed(self, plans: Sequence[PrunePlan]) -> NDArray[np.float64]:
        """float64 (plans, units): their removal matrix; rows are made once."""
        if new := [plan for plan in dict.fromkeys(plans) if plan not in self._rows]:
            self._rows.update(zip(new, removal_matrix(new, self.space), strict=True))
        return np.array([self._rows[plan] for plan in plans]).reshape(len(plans), len(self.space.units))

    def scores(self, plans: Sequence[PrunePlan], windows: Sequence[int]) -> NDArray[np.float64]:
        """float64 (those of these plans that were seen on these windows together, windows): their scores.

        NaN where the goal is not measured by window.
        """
        found = [
            look.by_window[look.plans.index(plan)]
            for plan in plans
            for look in self.taken
            if look.windows == tuple(windows) and plan in look.plans
        ]
        return np.array(found).reshape(len(found), len(windows))

    def noise(self) -> float:
        """The variance from window to window of the difference between two plans, halved; 0 where nothing shows it.

        It is that of the residuals after the effects of plans and of windows are taken out of each look, pooled.
        """
        residuals, freedom = [], 0.0
        for look in self.taken:
            sound = look.by_window[np.isfinite(look.by_window).all(axis=1)]
            if min(sound.shape) >= 2:
                centred = sound - sound.mean(axis=1, keepdims=True)
                residuals.append((centred - centred.mean(axis=0)).ravel())
                freedom += (sound.shape[0] - 1) * (sound.shape[1] - 1)
        if not residuals:
            return 0.0
        every = np.concatenate(residuals)
        bound = CLIP * float(np.median(np.abs(every)))
        return float((every.clip(-bound, bound) ** 2).sum() / freedom)
