"""Greedy removal: the unit that hurts least, again and again."""

from dataclasses import dataclass
from typing import ClassVar

from searcher.contracts.plan import PrunePlan
from searcher.contracts.racing import rank
from searcher.contracts.space import Space
from searcher.contracts.strategy import Outcome, Search, SearchStopped, Strategy


@dataclass(frozen=True)
class Greedy(Strategy):
    """Remove the unit whose removal hurts the objective least, re-evaluate all the rest, repeat.

    When to use it: the strong and simple baseline, and a whole front of sizes for the price of the largest. It never
    takes a removal back, so it is blind to units that are only redundant together. With racing, each round drops
    the units that are clearly not the one to remove before they have been measured on every window.

    Source: SLEB (Song et al. 2024, arXiv:2402.09025, Algorithm 1) for blocks; BlockPruner (Zhong et al. 2024,
    arXiv:2406.10594) and FinerCut (Zhang et al. 2024, arXiv:2405.18218) for sublayers.
    """

    races: ClassVar[bool] = True

    def search(self, space: Space) -> Search:
        """One round a removal, every legal unit tried in each."""
        plan = PrunePlan()
        chosen: list[PrunePlan] = []
        losses: list[float] = []
        ranked = space.units  # by the last finished round, the best first
        for _ in range(space.size):
            candidates = space.extensions(plan)
            try:
                ranking = yield from rank(space, candidates)
            except SearchStopped:
                break
            of_unit = dict(zip(candidates, space.left(plan), strict=True))
            ranked = tuple(of_unit[candidate] for candidate in ranking.order)
            plan = ranking.order[0]
            chosen.append(plan)
            losses.append(ranking.scores.measured()[plan])
        complete = space.filled(plan, ranked)
        notes = {"steps": [{"plan": str(p), "score": s} for p, s in zip(chosen, losses, strict=True)]}
        return Outcome(tuple(dict.fromkeys((complete, *reversed(chosen)))), notes)
