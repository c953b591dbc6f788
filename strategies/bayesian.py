"""Bayesian search: many plans seen on few windows each, a posterior over all plans, a final on unseen windows."""

import contextlib
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Outcome, Scores, Search, SearchStopped, Strategy
from strategies.final import Final, final, reserve
from strategies.looks import Looks
from strategies.posterior import Surrogate
from strategies.quadratic import lowest

LOOK = 4
"""Windows of a look, where there are eight times as many."""
WIDTH = 3
"""Plans of each size that grow."""
STARTS = 3
"""Plans, the best, around which others are looked for."""
CANDIDATES = 200
"""Plans with the best expectations, of which a round takes those that are the best in some draw."""

Rounds = Generator[Ask, Scores, None]


@dataclass
class _State:
    """What a search knows and has left.

    Attributes:
        space: of the search.
        looks: what was seen.
        surrogate: what that says.
        pages: the sets of windows that looks take in turn.
        rng: of the search.
        reserve: plans in full, of each size, that the final takes.
        grown: by size, the best plan that removing one unit after another has led to.
        rounds: how many rounds of swaps there were.
        turn: how many looks there were.
    """

    space: Space
    looks: Looks
    surrogate: Surrogate
    pages: Sequence[tuple[int, ...]]
    rng: np.random.Generator
    reserve: int
    grown: dict[int, PrunePlan] = field(default_factory=dict)
    rounds: int = 0
    turn: int = 0

    @property
    def page(self) -> tuple[int, ...]:
        """The windows of the next look."""
        return self.pages[self.turn % len(self.pages)]

    def ordered(self, size: int) -> list[PrunePlan]:
        """The plans of this size that were looked at, the best first."""
        return self.surrogate.order(self.looks.known(size), size)

    def look(self, plans: Sequence[PrunePlan]) -> Rounds:
        """Measure plans on the next windows, so that the final still fits."""
        finalists = [tuple(self.looks.known(size)[-self.reserve :]) for size in self.space.sizes]
        page, self.turn = self.page, self.turn + 1
        yield from self.looks.look(
            plans,
            page,
            spare=sum(self.reserve - len(those) for those in finalists),
            then=[those for those in finalists if those],
        )


@dataclass(frozen=True)
class Bayesian(Strategy):
    """See many plans on a few windows each, keep a posterior over all plans, and let the best meet on unseen windows.

    Every look measures some plans side by side on a few of the windows, others each time, so that a search cannot fit
    a few. A quadratic model of units and pairs with a posterior puts together what all looks have said: it compares
    plans that were seen on different windows, and plans that were never seen. Plans grow by one unit after another, as
    in greedy search, but only those extensions are measured that are the best in some draw from the posterior (Thompson
    sampling); then the best plans of full size are changed by swaps in the same way. Half of the windows are kept for
    the final: there the dozen best meet on windows that none of them was chosen on.

    When to use it: by default. It wants many windows (`--windows 64` or more), of which most plans see a few, and costs
    less than greedy with all of them by far.

    Source: Thompson 1933 (Biometrika 25) for choosing by draws from a posterior; quadratic models of pruning as in
    arXiv:2602.00161; fresh text for every generation as in EvoPress (arXiv:2410.14649).

    Args:
        effort: without a limit, what the rounds of swaps look at, as a multiple of what growing has.
        batch: plans in a look.
        finalists: plans of the full size that meet in the final.
    """

    effort: Annotated[float, Field(ge=0)] = 1.0
    batch: Annotated[int, Field(ge=2)] = 8
    finalists: Annotated[int, Field(ge=2)] = 12

    starts: ClassVar[bool] = True
    fresh: ClassVar[bool] = True
    searches_by: ClassVar[str | None] = "hybrid"

    def search(self, space: Space) -> Search:
        """Several sizes grow together, take turns in the rounds, and have a final each."""
        part = min(LOOK, max(1, space.num_windows // 8))
        pages = [tuple(range(i, i + part)) for i in range(0, max(1, space.num_windows // 2 - part + 1), part)]
        unseen = tuple(range(space.num_windows // 2, space.num_windows)) if space.num_windows > 1 else ()
        looks = Looks(space)
        state = _State(space, looks, Surrogate(looks), pages, space.rng(), reserve(self.finalists))
        try:
            yield from self._begin(state)
            yield from self._rounds(state)
        except SearchStopped:
            pass
        last = Final(unseen)
        shortlists = {size: self._shortlist(state, size) for size in space.sizes}
        with contextlib.suppress(SearchStopped):
            yield from final(last, state.looks, state.surrogate, shortlists)
        return self._outcome(state, last)

    def _begin(self, state: _State) -> Rounds:
        """The plan that was given and plans near it, if there is one; then plans of every size, grown unit by unit."""
        space = state.space
        if space.start is not None:
            size = space.size_of(space.start)
            near = [space.swapped(state.rng, space.start, 1) for _ in range(2 * self.batch)]
            yield from state.look([space.start, *near])
            state.grown[size] = space.start
        yield from self._grow(state)

    def _grow(self, state: _State) -> Rounds:
        yield from state.look(state.space.extensions(PrunePlan()))
        for size in range(2, state.space.size + 1):
            parents = state.ordered(size - 1)[:WIDTH]
            children = list(dict.fromkeys(child for parent in parents for child in state.space.extensions(parent)))
            posterior = state.surrogate.posterior(size)
            yield from state.look(posterior.lowest(children, self.batch, state.rng) if posterior else children)
        for size in state.space.sizes:
            state.grown.setdefault(size, state.ordered(size)[0])

    def _rounds(self, state: _State) -> Rounds:
        """Swaps, for each size in turn."""
        space, looks = state.space, state.looks
        most, stale = math.inf if space.limited else (1 + self.effort) * looks.measured, 0
        while looks.measured < most and stale < len(space.sizes) * len(state.pages):
            size = space.sizes[-1 - state.rounds % len(space.sizes)]
            posterior = state.surrogate.posterior(size)
            if posterior is None:
                return
            starts = state.ordered(size)[:STARTS]
            near = [plan for _, plan in lowest(posterior.mean, space, size, starts, CANDIDATES)]
            candidates = looks.new(dict.fromkeys([*starts, *near]), state.page)
            before = looks.measured
            yield from state.look(posterior.lowest(candidates, self.batch, state.rng))
            stale = 0 if looks.measured > before else stale + 1
            state.rounds += 1

    def _shortlist(self, state: _State, size: int) -> list[PrunePlan]:
        """The plans that meet in the final, the one that has grown among them."""
        count = self.finalists if size == state.space.size else max(2, self.finalists // len(state.space.sizes))
        ordered = state.ordered(size)
        grown = [state.grown[size]] if size in state.grown else []
        return list(dict.fromkeys([*ordered[: count - len(grown)], *grown, *ordered[:count]]))[:count]

    def _outcome(self, state: _State, last: Final) -> Outcome:
        space = state.space
        plans = [plan for size in reversed(space.sizes) for plan in (last.order.get(size) or state.ordered(size))]
        if not any(space.size_of(plan) == space.size for plan in plans):
            plans.insert(0, _completed(state))
        return Outcome(tuple(dict.fromkeys(plans)), last.notes() | {"rounds": state.rounds})


def _completed(state: _State) -> PrunePlan:
    """The best plan of the largest size that was seen, filled up with the units that are expected to cost least."""
    space = state.space
    posterior = state.surrogate.posterior(space.size)
    if posterior is None:
        return space.sample(state.rng)
    largest = max(size for size in range(space.size) if size == 0 or state.looks.known(size))
    best = state.ordered(largest)[0] if largest else PrunePlan()
    costs: list[Any] = posterior.mean.single.tolist()
    order = sorted(zip(costs, space.units, strict=True))
    return space.filled(best, [unit for _, unit in order])
