"""Oscillating search: remove too much and give back, or give back and remove again."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Scores, Search, SearchStopped, Strategy
from strategies.beginnings import Beginning, measure_beginning


@dataclass(frozen=True)
class Oscillating(Strategy):
    """Improve a plan by removing a few units too many and giving as many back, and the other way round.

    Both are done greedily, so the plan comes back another way than it went. Whenever it comes back better, the search
    begins again from there with a swing of one; else the next swing is wider.

    When to use it: to improve greedy's plan for little. A swing of one costs some 50 plans where all swaps would be
    hundreds, and a swing of four changes four units at once.

    Source: Somol & Pudil 2000 (ICPR, "Oscillating Search Algorithms for Feature Selection").

    Args:
        begin: where to begin without `--start`: at greedy's plan, or at a random one.
        swing: the most units that are removed too many, or given back, before the search ends.
    """

    begin: Beginning = "greedy"
    swing: Annotated[int, Field(ge=1)] = 6

    starts: ClassVar[bool] = True

    def search(self, space: Space) -> Search:
        """Each size in turn, from the largest down: what lies on the way of a swing is known to the smaller ones."""
        board = Scoreboard(space)
        try:
            yield from measure_beginning(board, self.begin, space.rng())
            for size in reversed(space.sizes):
                yield from self.improve(board, size)
        except SearchStopped:
            pass
        return board.outcome()

    def improve(self, board: Scoreboard, size: int) -> Generator[Ask, Scores, None]:
        """Swing around the best plan of this size until no swing leads to a better one.

        Raises:
            SearchStopped: a limit has come.
        """
        swing = 1
        while swing <= self.swing:
            best = board.ranked(size)[0]
            for way in (swing, -swing):
                turned = yield from _moved(board, best, way)
                yield from _moved(board, turned, size - board.space.size_of(turned))
                if board.ranked(size)[0] != best:
                    break
            swing = 1 if board.ranked(size)[0] != best else swing + 1


def _moved(board: Scoreboard, plan: PrunePlan, steps: int) -> Generator[Ask, Scores, PrunePlan]:
    """The plan after so many greedy removals or, if negative, restorations; fewer where there is nothing left."""
    for _ in range(abs(steps)):
        choices = board.space.extensions(plan) if steps > 0 else board.space.reductions(plan)
        if not choices:
            break
        yield from board.measure(choices)
        plan = min(choices, key=lambda choice: (board.scores[choice], choice))
    return plan
