"""A portfolio of strategies under one limit: what to take when only the budget is known."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from searcher.contracts.plan import PrunePlan, Unit
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Scores, Search, SearchStopped, Strategy
from searcher.errors import UsageError
from strategies.beginnings import greedily
from strategies.contiguous import Contiguous
from strategies.evolutionary import Evolutionary
from strategies.influence import Influence
from strategies.interactions import Interactions, Learnt
from strategies.oscillating import Oscillating

WARM_STARTS: dict[str, Strategy] = {
    "influence": Influence("cosine"),
    "influence by relative-l1": Influence("relative-l1"),
    "contiguous": Contiguous("cosine"),
}
"""Members that cost a dense pass and one plan of each size."""

SWINGS = Oscillating(swing=1)
"""Wider swings are dearer, and the rounds that come after find as much for less."""
SURROGATE, EVOLUTION = Interactions(), Evolutionary()

SubSearch = Generator[Ask, Scores, Any]


@dataclass
class Members:
    """Which members have searched, and how far they came."""

    in_full: list[str] = field(default_factory=list)
    in_part: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    rounds: int = 0

    def run(self, name: str, part: SubSearch) -> SubSearch:
        """Let a member search; it stays among those that ran in part unless it comes to its end."""
        self.in_part.append(name)
        yield from part
        self.in_part.remove(name)
        self.in_full.append(name)

    def notes(self) -> dict[str, Any]:
        """JSON values, and a line for the user."""
        told = [f"In full: {', '.join(self.in_full) or 'none'}"]
        told += [f"in part: {', '.join(self.in_part)}"] if self.in_part else []
        told += [f"left out: {name} ({reason})" for name, reason in self.left_out.items()]
        told += [f"then {self.rounds} rounds of interactions and of evolutionary in turn"] if self.rounds else []
        members = {"in_full": self.in_full, "in_part": self.in_part, "left_out": self.left_out, "rounds": self.rounds}
        return {"members": members, "summary": [f"{'; '.join(told)}."]}


@dataclass(frozen=True)
class Portfolio(Strategy):
    """Cheap strategies first, then greedy, then whatever improves on the best of them until the limit.

    Influence and contiguous removal need little more than a dense pass. Greedy follows where the limit has room for it,
    then oscillating search with swings of one, as often as that helps. What is left of the limit is spent on rounds of
    a quadratic surrogate (`interactions`) and generations of offspring (`evolutionary`) in turn, and on swings again
    whenever they have found better. All members know every score so far, so nothing is measured twice, and the outcome
    is never worse on the search windows than that of a member which ran in full; which did is said below the outcome.

    When to use it: by default. Without a limit it measures about twice as many plans as greedy.

    Args:
        effort: without a limit, how many plans the last two members measure, as a multiple of what greedy takes.
    """

    effort: Annotated[float, Field(ge=0)] = 1.0

    starts: ClassVar[bool] = True

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of the members."""
        return tuple(dict.fromkeys(name for member in WARM_STARTS.values() for name in member.statistics))

    def search(self, space: Space) -> Search:
        """One scoreboard for all members."""
        board, members = Scoreboard(space), Members()
        try:
            yield from self._begin(board, members)
            if _room_for_greedy(board):
                yield from members.run("greedy", greedily(board))
            else:
                members.left_out["greedy"] = "it does not fit the limit"
            for size in reversed(space.sizes):
                name = "oscillating" if len(space.sizes) == 1 else f"oscillating at {size}"
                yield from members.run(name, SWINGS.improve(board, size))
            yield from self._rounds(board, members, space.rng())
        except SearchStopped:
            pass
        return board.outcome(members.notes())

    def _begin(self, board: Scoreboard, members: Members) -> Generator[Ask, Scores, None]:
        if board.space.start is not None:
            yield from board.measure([board.space.start])
        for name, member in WARM_STARTS.items():
            try:
                yield from members.run(name, board.follow(member.search(board.space)))
            except UsageError as error:  # no span is legal
                members.in_part.remove(name)
                members.left_out[name] = error.message

    def _rounds(self, board: Scoreboard, members: Members, rng: np.random.Generator) -> Generator[Ask, Scores, None]:
        """Surrogate and evolution in turn, for each size in turn, until the limit or until nothing new is found."""
        space, learnt = board.space, Learnt()
        of_greedy = sum(map(len, _rounds_of_greedy(space, space.units)))
        most = np.inf if space.limited else len(board.scores) + self.effort * of_greedy
        stale = 0
        while len(board.scores) < most and stale < len(space.sizes):
            known = len(board.scores)
            size = space.sizes[-1 - members.rounds % len(space.sizes)]
            best = board.ranked(size)[:1]
            yield from SURROGATE.round(board, size, rng, learnt)
            yield from EVOLUTION.generation(board, size, rng)
            if board.ranked(size)[:1] != best:
                yield from SWINGS.improve(board, size)
            members.rounds += 1
            stale = 0 if len(board.scores) > known else stale + 1


def _room_for_greedy(board: Scoreboard) -> bool:
    """Whether the limit has room for all rounds of greedy, whichever way it goes.

    What a round is charged depends on what was removed before: most where that is deep, for what comes after a removal
    is run again for each unit that could be removed before it. Where parts differ in price, a plan for each round is
    kept back besides, more than it was ever seen to vary.
    """
    space = board.space
    parts = {unit.part for unit in space.units}
    spare = (0 if board.ranked() else 1) + (space.size if len(parts) > 1 else 0)
    for first in sorted(parts):
        order = sorted(space.units, key=lambda unit: (unit.part is not first, -unit.block))
        rounds = _rounds_of_greedy(space, order)
        known = sum(plan in board.scores for plans in rounds for plan in plans)  # costs nothing here, elsewhere it may
        if not space.fits((), spare + known, then=rounds):
            return False
    return True


def _rounds_of_greedy(space: Space, order: Sequence[Unit]) -> list[tuple[PrunePlan, ...]]:
    """What greedy would ask about, round by round, if it removed the units in this order."""
    path = [space.filled(PrunePlan(), order, size) for size in range(space.size)]
    return [space.extensions(plan) for plan in path]
