"""Random plans: the honest baseline."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from searcher.plan import PrunePlan
from searcher.racing import rank
from searcher.strategy import Ask, Outcome, Scores, SearchStopped, Space, Strategy, order_by_score

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

    def search(self, space: Space) -> Generator[Ask, Scores, Outcome]:
        """In batches, so that a limit ends the search with what has been measured."""
        plans = self._sample(space)
        # only plans of one size race with each other
        size = BATCH if space.racing is None else BATCH * len(space.sizes)
        measured: dict[PrunePlan, float] = {}
        while plans:
            batch = tuple(plans[:size])
            while len(batch) > 1 and not space.fits(batch):
                batch = batch[: len(batch) // 2]
            rivals = () if space.racing is None else _best_of_each_size(space, measured)
            try:
                ranking = yield from rank(space, (*batch, *rivals))
            except SearchStopped as stop:
                measured |= stop.scores.measured()
                break
            measured |= ranking.scores.measured()
            plans = plans[len(batch) :]
        return Outcome(order_by_score(tuple(measured), measured) or tuple(plans[:1]))

    def _sample(self, space: Space) -> list[PrunePlan]:
        """Distinct plans, the sizes taken in turn from the largest down."""
        rng = space.rng()
        sizes = sorted(space.sizes, reverse=True)
        plans: dict[PrunePlan, None] = {}
        for attempt in range(self.samples * ATTEMPTS):  # a small space may hold fewer plans than asked for
            units = rng.choice(len(space.units), size=sizes[attempt % len(sizes)], replace=False)
            plans.setdefault(PrunePlan.of(space.units[i] for i in units))
            if len(plans) == self.samples:
                break
        return list(plans)

    def expected_evaluations(self, space: Space) -> int:
        """The samples."""
        return self.samples


def _best_of_each_size(space: Space, measured: dict[PrunePlan, float]) -> tuple[PrunePlan, ...]:
    best: dict[int, PrunePlan] = {}
    for plan in order_by_score(tuple(measured), measured):
        best.setdefault(plan.size(space.granularity), plan)
    return tuple(best.values())
