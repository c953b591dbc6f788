"""Random plans: the honest baseline."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from searcher.plan import PrunePlan
from searcher.strategy import Ask, Outcome, Scores, SearchStopped, Space, Strategy, order_by_score

BATCH = 16
ATTEMPTS = 100


@dataclass(frozen=True)
class Random(Strategy):
    """Uniform random plans of each size asked for; the best of them wins.

    When to use it: as the baseline that any other strategy must beat at the same cost (Bergstra & Bengio 2012, JMLR
    13, "Random Search for Hyper-Parameter Optimization").

    Args:
        samples: how many distinct plans to try, shared evenly among the sizes.
    """

    samples: Annotated[int, Field(ge=1)] = 64

    def search(self, space: Space) -> Generator[Ask, Scores, Outcome]:
        """In batches, so that a limit ends the search with what has been measured."""
        plans = self._sample(space)
        measured: dict[PrunePlan, float] = {}
        while plans:
            batch = tuple(plans[:BATCH])
            while len(batch) > 1 and not space.fits(batch):
                batch = batch[: len(batch) // 2]
            try:
                scores = yield Ask(batch)
            except SearchStopped as stop:
                measured |= _measured(stop.scores)
                break
            measured |= _measured(scores)
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


def _measured(scores: Scores) -> dict[PrunePlan, float]:
    pairs = zip(scores.plans, scores.first.tolist(), strict=True)
    return {plan: score for plan, score in pairs if not np.isnan(score)}
