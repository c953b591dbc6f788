"""What a search has been told so far: asks only for what is new, uses a limit up, and ends with the best.

    board = Scoreboard(space)
    try:
        yield from board.measure(plans)          # in place of  scores = yield Ask(plans)
        better = board.ranked()[0]
    except SearchStopped:
        pass                                     # what was measured before the limit is on the board
    return board.outcome()

For strategies that go on from the plans they have tried. A strategy can follow another one with `follow`.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.plan import PrunePlan, Unit
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Outcome, Scores, Search, SearchStopped, order_by_score

RIDGE = 1e-3
"""Pull towards zero of the additive fit, relative to the number of plans: decides only what the plans leave open."""


@dataclass
class Scoreboard:
    """The plans a search knows, with their scores on all windows.

    Attributes:
        space: of the search.
        scores: of the first goal, lower is better, `inf` for a plan that breaks the model.
        values: of every goal, in the order of the run.
        preferred: what a strategy that was followed stood for when a limit stopped it.
    """

    space: Space
    scores: dict[PrunePlan, float] = field(default_factory=dict)
    values: dict[PrunePlan, tuple[float, ...]] = field(default_factory=dict)
    preferred: tuple[PrunePlan, ...] = ()
    _of_size: dict[int, dict[PrunePlan, None]] = field(default_factory=dict)

    def measure(self, plans: Iterable[PrunePlan]) -> Generator[Ask, Scores, None]:
        """Learn the scores of those plans that are not known yet, as many as the limits allow.

        Raises:
            SearchStopped: a limit has come; what was measured is on the board.
        """
        new = tuple(plan for plan in dict.fromkeys(plans) if plan not in self.scores)
        while new:
            batch = new[: self.affordable(new)] or new  # nothing fits: ask, to be told which limit it is
            try:
                self.learn((yield Ask(batch)))
            except SearchStopped as stop:
                self.learn(stop.scores)
                raise
            new = new[len(batch) :]

    def follow(self, search: Search) -> Search:
        """Let another strategy search, and learn what it is told.

        Raises:
            SearchStopped: a limit came while it searched.
        """
        stopped: SearchStopped | None = None
        try:
            ask = next(search)
            while True:
                try:
                    answer = yield ask
                except SearchStopped as stop:
                    stopped = stop
                    self.learn(stop.scores, ask)
                    ask = search.throw(stop)
                else:
                    self.learn(answer, ask)
                    ask = search.send(answer)
        except StopIteration as end:
            outcome: Outcome = end.value
            if stopped is not None:
                self.preferred = outcome.plans
                raise stopped from None
            return outcome

    def learn(self, answer: Scores, ask: Ask | None = None) -> None:
        """Take in an answer, unless the ask was not about all windows."""
        if ask is None or (ask.windows is None and not ask.screen):
            every = dict(zip(answer.plans, map(tuple, answer.values.tolist()), strict=True))
            for plan, score in answer.measured().items():
                self.scores[plan], self.values[plan] = score, every[plan]
                self._of_size.setdefault(self.space.size_of(plan), {})[plan] = None

    def affordable(self, plans: Sequence[PrunePlan]) -> int:
        """How many of these plans, from the first on, fit the limits; a plan of full size must fit after them."""
        have_one = self.space.size in self._of_size

        def fits(count: int) -> bool:
            full = have_one or any(self.space.size_of(plan) == self.space.size for plan in plans[:count])
            return self.space.fits(plans[:count], 0 if full else 1)

        return len(plans) if fits(len(plans)) else largest(fits, len(plans))

    def ranked(self, size: int | None = None) -> tuple[PrunePlan, ...]:
        """The known plans of this size (by default the full one), best first."""
        wanted = self.space.size if size is None else size
        return order_by_score(tuple(self._of_size.get(wanted, ())), self.scores)

    def unit_costs(self) -> dict[Unit, float]:
        """What removing each unit costs by what is known: the additive model that fits the finite scores best.

        A unit that was never removed costs as much as the dearest one: nothing says that it is free.
        """
        plans = [plan for plan, score in self.scores.items() if np.isfinite(score)]
        if not plans:
            return dict.fromkeys(self.space.units, 0.0)
        removed = removal_matrix(plans, self.space)
        design = np.column_stack([np.ones(len(plans)), removed])
        pull = RIDGE * len(plans) * np.diag([0.0, *np.ones(removed.shape[1])])
        scores = np.array([self.scores[plan] for plan in plans])
        fitted = np.linalg.lstsq(design.T @ design + pull, design.T @ scores, rcond=None)[0][1:]
        fitted[removed.sum(axis=0) == 0] = fitted.max(initial=0.0)
        fitted = fitted.round(12)  # what a linear solver leaves to chance decides nothing
        return dict(zip(self.space.units, fitted.tolist(), strict=True))

    def unit_order(self) -> tuple[Unit, ...]:
        """The units, those first that cost least to remove; see :meth:`unit_costs`."""
        costs = self.unit_costs()
        return tuple(sorted(self.space.units, key=lambda unit: (costs[unit], unit)))

    def completed(self) -> PrunePlan:
        """The best plan of full size, or the best of the largest size below it filled up by :meth:`unit_order`.

        Where nothing is known, any plan: chance is no worse than the order of the units.
        """
        if not self.scores:
            return self.space.sample(self.space.rng())
        sizes = self._sizes()
        return self.space.filled(self.ranked(sizes[0])[0] if sizes else PrunePlan(), self.unit_order())

    def outcome(self, notes: Mapping[str, Any] | None = None) -> Outcome:
        """The known plans that the search may stand for: the full size first, of each size the best first."""
        known = [plan for size in self._sizes() for plan in self.ranked(size)]
        return Outcome(tuple(dict.fromkeys((*self.preferred, self.completed(), *known))), dict(notes or {}))

    def _sizes(self) -> list[int]:
        """The sizes of known plans up to the full one, descending."""
        return sorted((size for size in self._of_size if 1 <= size <= self.space.size), reverse=True)


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest count up to `most` that fits, 0 if not even 1 does; less than what fits must fit too."""
    low, high = 0, 1  # low fits
    while high <= most and fits(high):  # doubling: it is dear to try a count that is far too large
        low, high = high, min(2 * high, most) if high < most else most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def removal_matrix(plans: Sequence[PrunePlan], space: Space) -> NDArray[np.float64]:
    """float64 (plans, units): 1 where the plan removes the unit, else 0."""
    column = {unit: i for i, unit in enumerate(space.units)}
    matrix = np.zeros((len(plans), len(space.units)))
    for row, plan in enumerate(plans):
        matrix[row, [column[unit] for unit in plan.units(space.granularity)]] = 1.0
    return matrix
