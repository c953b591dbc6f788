"""Local search: swaps, until no swap is better."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Scores, Search, SearchStopped, Strategy
from strategies.beginnings import Beginning, measure_beginning

STALE = 20
"""Repeats of each size in a row that find no new plan, after which there will hardly be another."""


@dataclass(frozen=True)
class Local(Strategy):
    """Improve a plan by swaps: undo one removal and make another, the most promising first.

    Neighbours are tried in batches, in the order that an additive fit of all scores so far predicts, and the search
    moves on as soon as one is better. When no single swap is, double swaps are sampled. If none of those is better
    either, the plan is proved to be a local optimum: no single swap improves it on the search windows. From there the
    search may be repeated with a few units exchanged by chance.

    When to use it: to polish a plan of any origin (`--start`), or to know that greedy's plan cannot be improved by a
    swap. It does not see past its neighbourhood; `evolutionary` does.

    Source: the 1-swap and 2-swap neighbourhoods of Papadimitriou & Steiglitz 1982 ("Combinatorial Optimization",
    chapter 19); repeats as in Lourenco, Martin & Stutzle 2003 ("Iterated Local Search").

    Args:
        begin: where to begin without `--start`: at greedy's plan, or at a random one.
        doubles: how many double swaps are sampled around a plan that no single swap improves.
        repeats: how often the search is repeated from its best plan with `kick` units exchanged.
        kick: how many units.
        batch: plans measured together before the search may move on.
    """

    begin: Beginning = "greedy"
    doubles: Annotated[int, Field(ge=0)] = 64
    repeats: Annotated[int, Field(ge=0)] = 0
    kick: Annotated[int, Field(ge=2)] = 3
    batch: Annotated[int, Field(ge=1)] = 32

    starts: ClassVar[bool] = True

    def search(self, space: Space) -> Search:
        """Each size in turn, from the smallest up."""
        board, rng = Scoreboard(space), space.rng()
        proved: dict[int, PrunePlan] = {}
        try:
            yield from measure_beginning(board, self.begin, rng)
            for size in space.sizes:
                proved[size] = yield from self.climb(board, board.ranked(size)[0], rng)
            stale = 0
            for repeat in range(self.repeats * len(space.sizes)):
                if stale == STALE * len(space.sizes):
                    break
                known, size = len(board.scores), space.sizes[repeat % len(space.sizes)]
                kicked = space.swapped(rng, board.ranked(size)[0], self.kick)
                yield from board.measure([kicked])
                reached = yield from self.climb(board, kicked, rng)
                proved[size] = min(proved[size], reached, key=lambda plan: (board.scores[plan], plan))
                stale = 0 if len(board.scores) > known else stale + 1
        except SearchStopped:
            pass
        return board.outcome(_notes(board, proved))

    def climb(self, board: Scoreboard, plan: PrunePlan, rng: np.random.Generator) -> Generator[Ask, Scores, PrunePlan]:
        """From a measured plan to one that no swap improves, and no sampled double swap.

        Raises:
            SearchStopped: a limit has come.
        """
        while True:
            better = yield from self._better(board, plan, list(board.space.swaps(plan)))
            if better is None:
                doubles = dict.fromkeys(board.space.swapped(rng, plan, 2) for _ in range(self.doubles))
                better = yield from self._better(board, plan, list(doubles))
            if better is None:
                return plan
            plan = better

    def _better(
        self, board: Scoreboard, plan: PrunePlan, neighbours: list[PrunePlan]
    ) -> Generator[Ask, Scores, PrunePlan | None]:
        """A better neighbour, the best of those measured up to the first batch that has one."""
        known = [neighbour for neighbour in neighbours if neighbour in board.scores]
        new = _by_prediction(board, [neighbour for neighbour in neighbours if neighbour not in board.scores])
        while True:
            best = min((plan, *known), key=lambda one: (board.scores[one], one != plan, one))
            if best != plan:
                return best
            if not new:
                return None
            known, new = new[: self.batch], new[self.batch :]
            yield from board.measure(known)


def _by_prediction(board: Scoreboard, plans: list[PrunePlan]) -> list[PrunePlan]:
    """The plans in the order of what their units cost by what is known, the cheapest first."""
    costs = board.unit_costs() if plans else {}
    predicted = {plan: sum(costs[unit] for unit in plan.units(board.space.granularity)) for plan in plans}
    return sorted(plans, key=lambda plan: (predicted[plan], plan))


def _notes(board: Scoreboard, proved: dict[int, PrunePlan]) -> dict[str, Any]:
    optima = {
        str(size): {"plan": str(plan), "neighbours": sum(1 for _ in board.space.swaps(plan))}
        for size, plan in proved.items()
        if plan == board.ranked(size)[0]
    }
    lines = [
        f"Size {size}: none of the {found['neighbours']} plans one swap away from {found['plan']} is better."
        for size, found in optima.items()
    ]
    return {"local_optima": optima, "summary": lines or ["Stopped before a local optimum was proved."]}
