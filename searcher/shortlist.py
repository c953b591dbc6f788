"""The best plans of a search, each healed and measured again: healing may change which of them is best."""

from collections.abc import Callable, Mapping, Sequence

from searcher.measurement import Measurement
from searcher.objective import HEALED
from searcher.plan import PrunePlan
from searcher.search_loop import SearchLoop

DENSE = PrunePlan()


def heal_shortlists(
    loop: SearchLoop, ranked: Mapping[int, Sequence[PrunePlan]], top: int, begin: Callable[[Sequence[PrunePlan]], None]
) -> dict[int, tuple[PrunePlan, ...]]:
    """Heal the first plans of each size, measure them on the search windows, and rank them by that.

    The dense model is healed the same way, as a control. Of the full size, plans that keep to the bounds come first;
    plans whose healing ran away come last; ties stay in the order they had.

    Args:
        loop: of the search, which is over.
        ranked: the plans of each size, the best first.
        top: how many of a size.
        begin: told of the plans that will be healed.

    Returns:
        The shortlist of each size, the best after healing first.
    """
    shortlists = {size: tuple(plans[:top]) for size, plans in ranked.items()}
    patients = tuple(dict.fromkeys([DENSE, *(plan for plans in shortlists.values() for plan in plans)]))
    begin(patients)
    loop.recorder.measure("healed-search", patients)
    return {size: tuple(sorted(plans, key=lambda plan: _score(loop, plan))) for size, plans in shortlists.items()}


def healing_work(lines: Sequence[Measurement]) -> dict[str, float]:
    """What healing the shortlist, and measuring it healed, has taken: blocks and heads over a window, and seconds."""
    healed = [line for line in lines if line.split in HEALED and not line.run]
    return {
        "layer_forwards": sum(line.layer_forwards for line in healed),
        "heads": sum(line.heads for line in healed),
        "seconds": sum(line.seconds for line in healed),
    }


def _score(loop: SearchLoop, plan: PrunePlan) -> float:
    full_size = loop.space.size_of(plan) == loop.space.size
    values, _ = loop.goals.scores(loop.rows(plan, "healed-search"), range(loop.space.num_windows), full_size)
    return float(values[0])
