"""A quadratic surrogate of the loss: what units cost alone, and what they cost together."""

from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.contracts.scoreboard import Scoreboard, removal_matrix
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Scores, Search, SearchStopped, Strategy
from strategies.beginnings import Beginning, measure_beginning, measure_missing
from strategies.local import Local
from strategies.quadratic import Quadratic, fit, lowest, rank_correlation

STARTS = 4
"""Plans, the best known, from which the surrogate is searched; and one by chance."""
FIT_AT_MOST = 2500
"""Plans that a surrogate is fitted on: a fit takes the cube of their number."""
STRONGEST = 10
"""Pairs that are named in the notes."""


@dataclass
class Learnt:
    """What the rounds of a search have shown: the surrogate fitted last, and how well each ranked what it proposed."""

    model: Quadratic | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Interactions(Strategy):
    """Fit a quadratic surrogate on the plans measured so far, measure the plans that it holds best, fit again.

    The surrogate gives every unit a cost and every pair of units a cost beside it: it sees what greedy cannot, units
    that are redundant together. Plans that minimise it are found exactly where all can be enumerated, else by tabu
    search. How well each round's predictions ranked the plans that were then measured is part of the outcome: where
    that correlation is low, do not trust the coefficients. The search ends with swaps of the best plan.

    When to use it: to learn which units depend on each other, and to find plans several swaps away from greedy's.

    Source: quadratic (Ising) surrogates of pruning, arXiv:2602.00161, there from second derivatives; here
    J_ij = f_ij - f_i - f_j + f_0 from measured losses, or by regression on whatever plans were measured.

    Args:
        surrogate: what it is fitted on first: all `pairs`, which is dear, or the plans of the beginning (`regression`).
        begin: the beginning for `regression`, without `--start`: greedy's search, or random plans.
        rounds: how often it is fitted again.
        batch: plans measured in a round.
        swaps: end with a local search by swaps.
    """

    surrogate: Literal["pairs", "regression"] = "regression"
    begin: Beginning = "greedy"
    rounds: Annotated[int, Field(ge=1)] = 12
    batch: Annotated[int, Field(ge=2)] = 12
    swaps: bool = True

    starts: ClassVar[bool] = True

    def search(self, space: Space) -> Search:
        """Several sizes take turns; every plan measured for one teaches the surrogate of all."""
        board, rng, learnt = Scoreboard(space), space.rng(), Learnt()
        try:
            yield from self._begin(board, rng)
            for number in range(self.rounds):
                yield from self.round(board, space.sizes[-1 - number % len(space.sizes)], rng, learnt)
            yield from measure_missing(board)
            for size in space.sizes if self.swaps else ():
                yield from Local(doubles=0).climb(board, board.ranked(size)[0], rng)
        except SearchStopped:
            pass
        return board.outcome(_notes(space, learnt))

    def _begin(self, board: Scoreboard, rng: np.random.Generator) -> Generator[Ask, Scores, None]:
        space = board.space
        if self.surrogate == "pairs":
            few = (PrunePlan.of(units) for size in (0, 1, 2) for units in combinations(space.units, size))
            yield from board.measure(plan for plan in few if space.allows(plan))
        else:
            yield from board.measure([PrunePlan()])
        if self.surrogate == "regression" or space.start is not None:
            yield from measure_beginning(board, self.begin, rng, samples=4 * self.batch)

    def round(
        self, board: Scoreboard, size: int, rng: np.random.Generator, learnt: Learnt
    ) -> Generator[Ask, Scores, None]:
        """Fit, and measure the new plans of this size that the surrogate holds best.

        Raises:
            SearchStopped: a limit has come.
        """
        if not any(map(np.isfinite, board.scores.values())):
            return  # every plan breaks the model: there is nothing to fit
        learnt.model = _fitted(board, size)
        starts = [*board.ranked(size)[:STARTS], board.space.sample(rng, size)]
        ranked = lowest(learnt.model, board.space, size, starts, count=len(board.ranked(size)) + self.batch)
        proposed = [(plan, value) for value, plan in ranked if plan not in board.scores][: self.batch]
        if not proposed:
            return
        yield from board.measure(plan for plan, _ in proposed)
        measured = [board.scores[plan] for plan, _ in proposed]
        correlation = rank_correlation([value for _, value in proposed], measured)
        learnt.rounds.append({"size": size, "plans": len(proposed), "rank_correlation": correlation})


def _fitted(board: Scoreboard, size: int) -> Quadratic:
    """The surrogate for this size, from the plans of the nearest sizes, the best of each first."""
    finite = [plan for plan, score in board.scores.items() if np.isfinite(score)]
    distance = {plan: abs(board.space.size_of(plan) - size) for plan in finite}
    plans = sorted(finite, key=lambda plan: (distance[plan], board.scores[plan], plan))[:FIT_AT_MOST]
    scores = np.array([board.scores[plan] for plan in plans])
    return fit(removal_matrix(plans, board.space), _softened(scores, board.scores[plans[0]]), size)


def _softened(scores: NDArray[np.float64], best: float) -> NDArray[np.float64]:
    """The scores, those of plans far worse than the best of the size drawn together.

    How badly a plan breaks the model says little about plans that work, but would dominate a fit by least squares.
    """
    bend = best + (best - scores.min())
    return np.where(scores > bend, bend + np.log1p(np.maximum(scores - bend, 0.0)), scores)


def _notes(space: Space, learnt: Learnt) -> dict[str, Any]:
    if learnt.model is None:
        return {"summary": ["Stopped before a surrogate was fitted."]}
    known = [r["rank_correlation"] for r in learnt.rounds if r["rank_correlation"] is not None]
    median = float(np.median(known)) if known else None
    pair = learnt.model.pair
    pairs = sorted(combinations(range(len(space.units)), 2), key=lambda ij: (-abs(pair[ij]), ij))[:STRONGEST]
    told = "unknown" if median is None else f"{median:.2f}, median of {len(known)} rounds"
    return {
        "rounds": learnt.rounds,
        "rank_correlation": median,
        "units": {str(unit): float(cost) for unit, cost in zip(space.units, learnt.model.single, strict=True)},
        "pairs": {f"{space.units[i]} {space.units[j]}": float(pair[i, j]) for i, j in pairs},
        "summary": [f"Rank correlation of the surrogate with what was then measured: {told}."],
    }
