"""Racing: plans that are clearly not among the best are dropped before they have been measured on every window.

    ranking = yield from rank(space, candidates)     # in place of  scores = yield Ask(candidates)
    best = ranking.order[0]

All plans are measured on the first few windows, those significantly worse than the best are dropped, the others are
measured on twice as many, and so on; the survivors are measured on all windows, so that their scores are exact. For
strategies that want only the best of many plans. Windows come in random order, so the first n are a simple random
sample of all; what is tested is which plan is best on all the windows of this run, not on text at large.

Source: Maron & Moore 1993 (NeurIPS 6, "Hoeffding Races") for racing; Birattari et al. 2002 (GECCO, "A Racing
Algorithm for Configuring Metaheuristics") for races by paired t-tests.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from searcher.contracts.plan import PrunePlan
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Scores, SearchStopped, order_by_score

FIRST_LOOK = 4
"""Windows before the first plans may be dropped; a standard deviation from fewer says next to nothing."""
LEAST_OTHERS = 4
"""Plans besides the leader that a test needs, since the spread of the others guards it; see :func:`_worse_than`."""
GUARD_QUANTILE = 0.75
"""Which quantile of the standard deviations in a race is the least that a test assumes; see :func:`_worse_than`."""


@dataclass(frozen=True)
class Ranking:
    """What a race has found.

    Attributes:
        order: best first: the survivors by their exact scores (ties by plan), then the dropped plans, those dropped
            later first, of one look by their mean so far.
        scores: in the order asked. The values of dropped plans are NaN, and their `per_window` is partly filled.
    """

    order: tuple[PrunePlan, ...]
    scores: Scores


def rank(space: Space, plans: Sequence[PrunePlan], keep: int = 1) -> Generator[Ask, Scores, Ranking]:
    """Measure plans as far as it takes to tell the best `keep` of each size; without racing, all of them in full.

    Only plans of equal size compete. A plan is dropped when each of the `keep` leaders of its size is significantly
    better, or when it breaks the model and `keep` others do not.

    The guarantee, for each call: with probability 1 - `space.racing` or more, none of the truly best `keep` plans of
    any size (by the mean over all windows, ties by plan) is dropped. The union bound is over all looks, and over all
    pairs of such a plan and one that is truly no better, for one of these must be judged better by mistake. It holds
    for plans chosen without regard to the order of the windows, and as far as the t-test does: exactly for normal
    differences between plans, by simulation (`tests/searcher/test_racing.py`) for skewed and heavy-tailed ones. No test
    can guard against a plan that is better on all windows but one, and dreadful there.

    The race is by the first objective; one that is not a mean over windows is measured in full. Where a plan is charged
    for missing a bound on what its windows show, windows not yet seen may show that it keeps to it, or that its leader
    does not: so it must be worse than its leader charged for each of the bounds and not, at a level that allows for all
    of that. (To first order, where what is bounded is no mean over windows, such as a perplexity.)

    With `space.screening` only that share of the plans of each size enters the race, the best by a cheap loss; this is
    a guess, which the guarantee does not cover.

    Args:
        space: of the search; `space.racing` is the accepted chance of error, None turns racing off.
        plans: distinct plans.
        keep: how many of the best are wanted.

    Raises:
        ValueError: a plan comes twice, or `keep` is less than 1.
        SearchStopped: as thrown in, with scores for all the plans, NaN for those not measured in full.
    """
    race = _Race(space, _distinct(plans, keep), keep)
    if space.screening is not None:
        yield from _screen(race, space.screening)
    for look in race.looks:
        if not race.undecided():
            break
        yield from _ask(race, look)
        if not race.by_window(look):
            break
        race.drop(look)
    yield from _ask(race, None)
    return race.ranking()


def looks(num_windows: int) -> tuple[int, ...]:
    """After how many windows plans may be dropped: 4, 8, 16, … up to half of all; none if there are fewer than 8."""
    found = []
    look = FIRST_LOOK
    while 2 * look <= num_windows:
        found.append(look)
        look *= 2
    return tuple(found)


def _distinct(plans: Sequence[PrunePlan], keep: int) -> tuple[PrunePlan, ...]:
    if keep < 1:
        raise ValueError(f"A race must keep 1 plan or more, not {keep}")
    if len(set(plans)) < len(plans):
        twice = next(plan for plan in plans if plans.count(plan) > 1)
        raise ValueError(f"Plan {twice} is in the race twice: it would compete with itself")
    return tuple(plans)


class _Race:
    """The state of one race; positions are those of the plans asked about."""

    def __init__(self, space: Space, plans: tuple[PrunePlan, ...], keep: int) -> None:
        self.plans, self.keep, self.num_windows = plans, keep, space.num_windows
        self.sizes = np.array([plan.size(space.granularity) for plan in plans], dtype=np.int64)
        self.alive = np.arange(len(plans))
        self.dropped: list[int] = []  # best first
        self.looks = () if space.racing is None else looks(space.num_windows)
        self.level = (space.racing or 0.0) / max(1, len(self.looks) * _pairs(self._fields(), keep))
        self.scores = self.answer = Scores((), np.empty((0, 0)), np.empty((0, 0, 0)))

    def _fields(self) -> list[NDArray[np.int64]]:
        """The positions of the plans still racing, by size, where there are enough for a test."""
        fields = (self.alive[self.sizes[self.alive] == size] for size in np.unique(self.sizes[self.alive]))
        return [members for members in fields if len(members) > max(self.keep, LEAST_OTHERS)]

    def undecided(self) -> bool:
        """Whether another look could drop a plan."""
        return bool(self._fields())

    def take(self, answer: Scores, in_full: bool) -> None:
        """Learn the scores of the plans still racing; values count only when they are over all windows."""
        if self.scores.plans != self.plans:  # the first ask is about all of them
            self.scores = _unmeasured(answer)
        self.scores.per_window[self.alive] = answer.per_window
        if self.scores.charges is not None:
            self.scores.charges[self.alive] = answer.charges
        if in_full:
            self.scores.values[self.alive] = answer.values
        self.answer = answer

    def by_window(self, look: int) -> bool:
        """Whether the first objective is the mean over the windows, so that they can be tested."""
        means = self._losses(self.alive, look).mean(axis=1)
        sound = np.isfinite(means)
        return bool(sound.any()) and np.allclose(means[sound], self.answer.first[sound], rtol=1e-9, atol=1e-12)

    def _losses(self, positions: NDArray[np.int64], look: int) -> NDArray[np.float64]:
        return self.scores.per_window[positions, 0, :look]

    def drop(self, look: int) -> None:
        """Drop the plans that are not among the best of their size."""
        lost: dict[int, tuple[float, PrunePlan]] = {}
        for members in self._fields():
            losses = self._losses(members, look)
            charges = None if self.scores.charges is None else self.scores.charges[members, :, :look]
            out = beaten(losses, self.keep, self.level, self.num_windows, charges)
            means = np.nan_to_num(losses.mean(axis=1), nan=np.inf)
            lost |= {int(i): (float(means[j]), self.plans[i]) for j, i in enumerate(members) if out[j]}
        self.dropped = [*sorted(lost, key=lost.__getitem__), *self.dropped]
        self.alive = np.array([i for i in self.alive if i not in lost], dtype=np.int64)

    def ranking(self) -> Ranking:
        """The survivors by their scores, then the dropped."""
        value = {self.plans[i]: float(self.scores.first[i]) for i in self.alive}
        return Ranking((*order_by_score(tuple(value), value), *(self.plans[i] for i in self.dropped)), self.scores)


def _ask(race: _Race, look: int | None) -> Generator[Ask, Scores, None]:
    """Ask about the plans still racing, on the windows up to a look or (None) on all."""
    plans = tuple(race.plans[i] for i in race.alive)
    try:
        answer = yield Ask(plans, None if look is None else tuple(range(look)))
    except SearchStopped as stop:
        race.take(stop.scores, in_full=look is None)
        raise SearchStopped(stop.reason, race.scores) from stop
    race.take(answer, in_full=look is None)


def _screen(race: _Race, share: float) -> Generator[Ask, Scores, None]:
    """Let only this share of the plans of each size into the race, the best by the screening loss."""
    try:
        answer = yield Ask(race.plans, screen=True)
    except SearchStopped as stop:
        raise SearchStopped(stop.reason, _unmeasured(stop.scores)) from stop
    race.scores = _unmeasured(answer)
    order = sorted(race.alive.tolist(), key=lambda i: (answer.first[i], race.plans[i]))
    allowed: set[int] = set()
    for size in np.unique(race.sizes):
        members = [i for i in order if race.sizes[i] == size]
        allowed.update(members[: max(race.keep, math.ceil(share * len(members)))])
    race.dropped = [i for i in order if i not in allowed]
    race.alive = np.array(sorted(allowed), dtype=np.int64)


def _unmeasured(scores: Scores) -> Scores:
    """The plans with no score at all: what a screening says is for ranking only."""
    charges = None if scores.charges is None else np.full_like(scores.charges, np.nan)
    return Scores(scores.plans, np.full_like(scores.values, np.nan), np.full_like(scores.per_window, np.nan), charges)


def _pairs(fields: Sequence[NDArray[np.int64]], keep: int) -> int:
    """Pairs of one of the best `keep` plans of a size and another that is ranked behind it."""
    return sum(keep * len(members) - keep * (keep + 1) // 2 for members in fields)


def beaten(
    losses: NDArray[np.float64],
    keep: int,
    level: float,
    num_windows: int,
    charges: NDArray[np.float64] | None = None,
) -> NDArray[np.bool_]:
    """Which plans are significantly worse than each of the `keep` leaders, or broken where as many are not.

    Args:
        losses: float64 (plans, windows looked at), lower is better.
        keep: how many leaders.
        level: at which a plan may be judged worse than a leader by mistake.
        num_windows: how many windows there are in all.
        charges: float64 (plans, bounds, windows looked at), see `Scores`; where their mean is positive, `losses` holds
            them.

    Returns:
        bool (plans,): never a leader, so that at least `keep` plans are left.
    """
    sound = np.isfinite(losses).all(axis=1)
    if sound.sum() < keep:
        return np.zeros(len(losses), dtype=np.bool_)
    found: NDArray[np.bool_] = np.logical_not(sound)
    tested = losses[sound]
    possible = tested[:, None] if charges is None else _charged_or_not(tested, charges[sound])
    leaders = tested.mean(axis=1).argsort(kind="stable")[:keep]
    against = [other for leader in leaders for other in possible[leader]]
    level /= possible.shape[1]
    found[sound] = np.all([_worse_than(tested, other, level, num_windows) for other in against], axis=0)
    return found


def _charged_or_not(losses: NDArray[np.float64], charges: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (plans, 2 ** bounds, windows): the losses charged for none of the bounds, for each of them, and so on."""
    positive = charges.mean(axis=2) > 0
    free = losses - (charges * positive[..., None]).sum(axis=1)
    subsets = np.array(list(product((0.0, 1.0), repeat=charges.shape[1])))  # (2 ** bounds, bounds)
    found: NDArray[np.float64] = free[:, None] + np.einsum("sb,pbw->psw", subsets, charges)
    return found


def _worse_than(
    losses: NDArray[np.float64], other: NDArray[np.float64], level: float, num_windows: int
) -> NDArray[np.bool_]:
    """Which plans have a mean significantly above a leader's: a paired t-test, corrected for a finite population.

    Per-window losses are skewed: a plan may be a little better on most windows and dreadful on a few. While none of
    those few has been seen, its mean and its spread are both too small, and a plain t-test errs several times as
    often as it says. So no test assumes a smaller standard deviation than three quarters of the others have against
    this leader; that can only make a test more careful. A difference that is the same on all windows drops nothing.

    Args:
        losses: float64 (plans, windows looked at), all finite.
        other: float64 (windows looked at), those of the leader.
        level: of each one-sided test.
        num_windows: how many windows there are in all.
    """
    seen = losses.shape[1]
    difference = losses - other
    spread = difference.std(axis=1, ddof=1)
    varied = spread > 0
    if varied.sum() < LEAST_OTHERS:
        return np.zeros(len(losses), dtype=np.bool_)
    guarded = np.maximum(spread, np.quantile(spread[varied], GUARD_QUANTILE))
    standard_error = guarded * np.sqrt((1 - seen / num_windows) / seen)
    worse: NDArray[np.bool_] = varied & (difference.mean(axis=1) > -stdtrit(seen - 1, level) * standard_error)
    return worse
