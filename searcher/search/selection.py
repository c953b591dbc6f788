"""Which plans a run stands for: the best of each size, and those that no other beats in every objective."""

from collections.abc import Sequence

from searcher.contracts.plan import PrunePlan
from searcher.contracts.strategy import Ask, Outcome
from searcher.runs.pareto import nondominated
from searcher.search.loop import SearchLoop


def ranked_plans(loop: SearchLoop, outcome: Outcome) -> dict[int, tuple[PrunePlan, ...]]:
    """The plans of each size up to the full one that the search has charged for, the best first, by ascending size.

    Of the full size, those that keep to the bounds come before any that does not. Ties go to the strategy's own order,
    then to the first in plan order. The report split is not looked at.
    """
    rank = {plan: position for position, plan in enumerate(outcome.plans)}
    plans = loop.measured_plans()
    scores = loop.scores(Ask(plans)).first
    found: dict[int, list[tuple[float, float, int, PrunePlan]]] = {}
    for plan, score in zip(plans, scores.tolist(), strict=True):
        size = loop.space.size_of(plan)
        misses = loop.goals.excess(loop.rows(plan)) if size == loop.space.size else 0.0
        if 1 <= size <= loop.space.size:
            found.setdefault(size, []).append((misses, score, rank.get(plan, len(rank)), plan))
    return {size: tuple(plan for *_, plan in sorted(found[size])) for size in sorted(found)}


def chosen_plans(loop: SearchLoop, outcome: Outcome) -> dict[int, PrunePlan]:
    """The best plan of each size; see :func:`ranked_plans`."""
    return {size: plans[0] for size, plans in ranked_plans(loop, outcome).items()}


def front_plans(loop: SearchLoop, chosen: Sequence[PrunePlan]) -> tuple[PrunePlan, ...]:
    """The measured plans that keep to the bounds and that no other beats in every objective searched for, sorted.

    The number of removed units is an objective too, unless one of them says how much of the model is left. With one
    objective the chosen plans are candidates, with several all that were measured in full; the report split is not
    looked at.
    """
    goals = loop.goals
    several = len(goals.labels) > 1
    plans = [p for p in (loop.measured_plans() if several else chosen) if loop.space.size_of(p) >= 1]
    kept = [plan for plan in plans if not goals.excess(loop.rows(plan))]
    points = [[goals.score(label, loop.rows(plan)) for label in goals.labels] for plan in kept]
    if goals.size_counts:
        points = [[*point, -loop.space.size_of(plan)] for point, plan in zip(points, kept, strict=True)]
    return tuple(plan for plan, keep in zip(kept, nondominated(points), strict=True) if keep)
