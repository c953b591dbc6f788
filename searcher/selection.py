"""Which plan a run stands for at each size: the best one measured in full on the search split."""

from searcher.plan import PrunePlan
from searcher.search_loop import SearchLoop
from searcher.strategy import Ask, Outcome


def chosen_plans(loop: SearchLoop, outcome: Outcome) -> dict[int, PrunePlan]:
    """The best plan of each size up to the full one that the search has charged for, by ascending size.

    Ties go to the strategy's own order, then to the first in plan order. The report split is not looked at.
    """
    rank = {plan: position for position, plan in enumerate(outcome.plans)}
    plans = loop.measured_plans()
    scores = loop.scores(Ask(plans)).first
    chosen: dict[int, tuple[float, int, PrunePlan]] = {}
    for plan, score in zip(plans, scores.tolist(), strict=True):
        size = plan.size(loop.space.granularity)
        entry = (score, rank.get(plan, len(rank)), plan)
        if 1 <= size <= loop.space.size and (size not in chosen or entry < chosen[size]):
            chosen[size] = entry
    return {size: chosen[size][2] for size in sorted(chosen)}
