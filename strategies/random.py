"""Random plans: the honest baseline."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.contracts.racing import rank
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.space import Space
from searcher.contracts.strategy import Search, SearchStopped, Strategy

BATCH = 16
ATTEMPTS = 100


@dataclass(frozen=True)
class Random(Strategy):
    """Uniform random plans of each size asked for; the best of them wins.

    When to use it: as the baseline that any other strategy must beat at the same cost (Bergstra & Bengio 2012, JMLR
    13, "Random Search for Hyper-Parameter Optimization"). With racing, each batch races against the best plans so far.

    Args:
        samples: how many distinct plans to try, shared evenly among the sizes.
    """

    samples: Annotated[int, Field(ge=1)] = 64

    races: ClassVar[bool] = True

    def search(self, space: Space) -> Search:
        """In batches, so that a limit ends the search with what has been measured."""
        board, plans = Scoreboard(space), self._sample(space)
        # only plans of one size race with each other
        size = BATCH if space.racing is None else BATCH * len(space.sizes)
        try:
            while plans:
                batch = plans[:size]
                batch = batch[: board.affordable(batch)] or batch
                plans = plans[len(batch) :]
                best = [plan for size in space.sizes for plan in board.ranked(size)[:1]]
                rivals = best if space.racing is not None else []
                board.learn((yield from rank(space, (*batch, *rivals))).scores)
        except SearchStopped as stop:
            board.learn(stop.scores)
        return board.outcome()

    def _sample(self, space: Space) -> list[PrunePlan]:
        """Distinct plans, the sizes taken in turn from the largest down."""
        rng, sizes = space.rng(), sorted(space.sizes, reverse=True)
        plans: dict[PrunePlan, None] = {}
        for attempt in range(self.samples * ATTEMPTS):  # a small space may hold fewer plans than asked for
            plans.setdefault(space.sample(rng, sizes[attempt % len(sizes)]))
            if len(plans) == self.samples:
                break
        return list(plans)
