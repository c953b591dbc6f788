"""The loop of a search: the strategy asks, the ledger charges, the evaluator measures, the strategy is told."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.cost import Cost
from searcher.contracts.drive import drive
from searcher.contracts.ledger import Ledger
from searcher.contracts.notes import plain_notes
from searcher.contracts.objective import Objective, Split
from searcher.contracts.plan import PrunePlan
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Outcome, Scores, SearchStopped, Strategy
from searcher.errors import UsageError
from searcher.search.goals import Goals, additive
from searcher.search.recorder import Recorder

STALE_ROUNDS = 100
"""Rounds in which a strategy asked for nothing new, after which its search is over."""


@dataclass
class SearchLoop:
    """Drives one strategy.

    Args:
        space: what may be removed.
        recorder: measures and keeps.
        ledger: charges, and says what fits the limits.
        goals: what is searched for.
        deadline: when to stop, by `time.monotonic`; None for never.
        screening: what plans are screened by, if they are.
    """

    space: Space
    recorder: Recorder
    ledger: Ledger
    goals: Goals
    deadline: float | None = None
    screening: Mapping[str, Objective] = field(default_factory=dict)
    stopped: str | None = None
    _has_full_size: bool = False
    _stale: int = 0
    _told: int = 0

    def run(self, strategy: Strategy) -> Outcome:
        """Search to the end or to the first limit; `stopped` then says which.

        Raises:
            UsageError: the strategy asked for a plan that is not legal here, or returned no Outcome, or
                one with notes that are not JSON.
        """
        outcome = drive(strategy.search(self.space), self._answer, Outcome(()))  # a strategy may leave it to us
        if not isinstance(outcome, Outcome):
            raise UsageError(f"The strategy returned {type(outcome).__name__}", "`search` must return an Outcome")
        outcome = replace(outcome, notes=plain_notes(outcome, type(strategy).__name__))
        self._measure_outcome(outcome)
        return outcome

    def _answer(self, ask: Ask) -> Scores | SearchStopped | None:
        """Scores, or the limit that has come; None for a strategy that goes on and on after it was told to stop."""
        if self._told == STALE_ROUNDS:
            return None
        reason = self._reason_to_stop(ask)
        if reason is None:
            return self.scores(ask)
        self._told += 1
        self.stopped = self.stopped or reason
        return SearchStopped(reason, self.scores(ask))

    def _reason_to_stop(self, ask: Ask) -> str | None:
        """Measure and charge what was asked, unless a limit comes first: then which."""
        self._check(ask)
        if reason := self._limit(ask):
            return reason
        finished = self.recorder.measure(_split(ask), ask.plans, ask.windows, self.deadline)
        covers = self.recorder.known.covers
        measured = ask.plans if finished else [p for p in ask.plans if covers(_split(ask), p, ask.windows)]
        self.ledger.charge(measured, ask.windows, ask.screen)
        if ask.windows is None and not ask.screen:
            self._has_full_size = self._has_full_size or self._any_full_size(measured)
        return None if finished else "timeout"

    def _limit(self, ask: Ask) -> str | None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "timeout"
        new = self.ledger.cost_of(ask.plans, ask.windows, ask.screen) != Cost()
        self._stale = 0 if new else self._stale + 1
        if self._stale >= STALE_ROUNDS:
            return f"{STALE_ROUNDS} rounds without a new plan"
        # until a plan of full size has been measured, the cost of one is kept back
        in_full = ask.windows is None and not ask.screen
        spare = 0 if self._has_full_size or (in_full and self._any_full_size(ask.plans)) else 1
        return self.ledger.limit_passed_by(ask.plans, spare, ask.windows, ask.screen)

    def _any_full_size(self, plans: Iterable[PrunePlan]) -> bool:
        return any(plan.size(self.space.granularity) == self.space.size for plan in plans)

    def _check(self, ask: Ask) -> None:
        for plan in ask.plans:
            self._check_plan(plan)
        for window in ask.windows or ():
            if not 0 <= window < self.space.num_windows:
                raise UsageError(f"The strategy asked for window {window}", f"There are {self.space.num_windows}")

    def _check_plan(self, plan: PrunePlan) -> None:
        if self.space.allows(plan):
            return
        if not set(self.space.units).issuperset(plan.units(self.space.granularity)):
            raise UsageError(
                f"The strategy asked for plan {plan}, which removes units that are protected or do not exist",
                "A strategy may only remove `space.units`",
            )
        raise UsageError(
            f"The strategy asked for plan {plan}, from which no plan of {self.space.size} units keeps to the limits",
            "A strategy may only ask for plans that `space.allows`, such as those it makes with `space.left`",
        )

    def _measure_outcome(self, outcome: Outcome) -> None:
        """Measure the plans the strategy stands for, and make sure that there is one of the full size."""
        for size in reversed(self.space.sizes):
            preferred = [p for p in outcome.plans if p.size(self.space.granularity) == size][:1]
            if size == self.space.size and not preferred and not self._any_full_size(self.measured_plans()):
                preferred = [self._filled_up()]
            for plan in preferred:
                self._check_plan(plan)
                if self.ledger.fits([plan]):
                    self.ledger.charge([plan])
                    self.recorder.measure("search", [plan])

    def _filled_up(self) -> PrunePlan:
        """The best plan of the largest size measured, filled up by chance: better than nothing."""
        granularity = self.space.granularity
        measured = [p for p in self.measured_plans() if p.size(granularity) < self.space.size]
        score = dict(zip(measured, self.scores(Ask(tuple(measured))).first.tolist(), strict=True))
        start = min(measured, key=lambda p: (-p.size(granularity), score[p], p), default=PrunePlan())
        left = self.space.left(start)
        return self.space.filled(start, [left[i] for i in self.space.rng().permutation(len(left))])

    def measured_plans(self) -> tuple[PrunePlan, ...]:
        """The plans measured in full and charged for, sorted.

        The journal of a run that was resumed with higher limits may hold more; decisions must not depend on it.
        """
        return tuple(plan for plan in self.recorder.known.plans("search") if self.ledger.paid(plan))

    def scores(self, ask: Ask) -> Scores:
        """The answer to an ask from what has been measured and charged for."""
        windows, known = self._windows(ask), self.recorder.known
        values = np.full((len(ask.plans), self.goals.columns), np.nan)
        per_window = np.full((*values.shape, self.space.num_windows), np.nan)
        charges = np.full((len(ask.plans), len(self.goals.window_bounds), self.space.num_windows), np.nan)
        for i, plan in enumerate(ask.plans):
            if not (self.ledger.paid(plan, windows, ask.screen) and known.covers(_split(ask), plan, windows)):
                continue
            if ask.screen:
                ((name, objective),) = self.screening.items()
                values[i, 0] = additive(objective, known.rows("screen", plan, name)[windows])
            else:
                full_size = self.space.size_of(plan) == self.space.size
                rows = self.rows(plan)
                values[i], per_window[i][:, windows] = self.goals.scores(rows, windows, full_size)
                charges[i][:, windows] = self.goals.charges(rows, windows, full_size)
        return Scores(ask.plans, values, per_window, charges if self.goals.window_bounds else None)

    def rows(self, plan: PrunePlan, split: Split = "search") -> dict[str, NDArray[np.float64]]:
        """The plan's numbers on a split, by objective."""
        return {label: self.recorder.known.rows(split, plan, label) for label in self.goals.objectives}

    def _windows(self, ask: Ask) -> list[int]:
        return list(range(self.space.num_windows) if ask.windows is None else ask.windows)


def _split(ask: Ask) -> Split:
    return "screen" if ask.screen else "search"
