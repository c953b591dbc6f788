"""The best plan of each size that a search has measured so far, and what is new about it."""

from searcher.contracts.plan import PrunePlan
from searcher.search.loop import SearchLoop


class BestPlans:
    """Told in a few words: how many plans, and the best of the full size, or of one that got better since.

    Args:
        loop: of the search.
    """

    def __init__(self, loop: SearchLoop) -> None:
        self._loop = loop
        self._met: set[PrunePlan] = set()
        self._seen: set[PrunePlan] = set()
        self._best: dict[int, tuple[float, PrunePlan]] = {}
        self._better: set[int] = set()

    def offer(self, plan: PrunePlan) -> None:
        """A plan has been measured, perhaps in full."""
        self._met.add(plan)
        known, size = self._loop.recorder.known, self._loop.space.size_of(plan)
        if plan in self._seen or not known.complete("search", plan):
            return
        self._seen.add(plan)
        if not 1 <= size <= self._loop.space.size:
            return
        name = next(iter(self._loop.goals.objectives))
        entry = self._loop.goals.score(name, self._loop.rows(plan)), plan
        if size not in self._best or entry < self._best[size]:
            self._best[size] = entry
            self._better.add(size)

    def told(self) -> None:
        """What was new has been read."""
        self._better.clear()

    def __str__(self) -> str:
        in_full = f", {len(self._seen):,} of them in full" if len(self._seen) < len(self._met) else ""
        plans = f"{len(self._met):,} plans{in_full}"
        size = max(self._better or self._best, default=None)
        if size is None:
            return plans
        name, objective = next(iter(self._loop.goals.objectives.items()))
        _, plan = self._best[size]
        value = objective.value(self._loop.recorder.known.rows("search", plan, name))
        return f"{plans}  best of {size}: {name} {value:.4g} ({plan})"
