"""Beam search: greedy removal with several plans kept at each size."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.contracts.racing import rank
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.space import Space
from searcher.contracts.strategy import Search, SearchStopped, Strategy


@dataclass(frozen=True)
class Beam(Strategy):
    """Like greedy, but the best few plans of each size are extended, not only the best one.

    When to use it: where greedy's first removals may be wrong and a few times its cost can be spent. With width 1 it is
    greedy. Plans reached from several sides are measured once, so it costs less than width times greedy.

    Source: the beam search of Lowerre 1976 ("The HARPY Speech Recognition System"), over removals instead of words.

    Args:
        width: how many plans of each size are kept.
    """

    width: Annotated[int, Field(ge=1)] = 4

    races: ClassVar[bool] = True

    def search(self, space: Space) -> Search:
        """One round a removal, every legal extension of every kept plan tried in each."""
        board = Scoreboard(space)
        kept: tuple[PrunePlan, ...] = (PrunePlan(),)
        try:
            for _ in range(space.size):
                candidates = dict.fromkeys(longer for plan in kept for longer in space.extensions(plan))
                ranking = yield from rank(space, tuple(candidates), keep=self.width)
                board.learn(ranking.scores)
                kept = ranking.order[: self.width]
        except SearchStopped as stop:
            board.learn(stop.scores)
        return board.outcome()
