"""The best plans of a search, each healed and measured again: healing may change which of them is best."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest

from searcher.contracts.cost import Cost
from searcher.contracts.ledger import Ledger
from searcher.contracts.objective import HEALED
from searcher.contracts.plan import DENSE, PrunePlan
from searcher.contracts.space import Space
from searcher.runs.measurement import Measurement
from searcher.search.loop import SearchLoop

SHARE = 0.5
"""Of a limit, what is kept back at most for healing a shortlist, if that leaves room for the first of its plans."""

Price = Callable[[PrunePlan], Cost | None]
"""What healing a plan, and measuring it healed, is charged; None where a healing does not tell what it runs."""


@dataclass(frozen=True)
class Shortlists:
    """What healing has made of the best plans.

    Attributes:
        healed: the plans of each size that were healed, the best after healing first.
        left_out: how many were not, since a limit came first.
    """

    healed: dict[int, tuple[PrunePlan, ...]]
    left_out: int


def keep_back(ledger: Ledger, space: Space, top: int, price: Price) -> None:
    """Keep back the cost of healing the shortlists, or of as many of their plans as `SHARE` of the limits allows.

    The control and one plan are kept back in any case. Which plans will be healed is not known before the search; the
    units of those that are counted here lie as far apart as they can.

    Args:
        ledger: of the search.
        space: of the search.
        top: how many plans of a size are healed.
        price: of healing one.
    """
    alternating = (*space.units[::2], *space.units[1::2])
    like = {size: space.filled(DENSE, alternating, size) for size in space.sizes}
    lists = {size: (plan,) * min(top, space.count(size)) for size, plan in like.items()}
    costs = [price(plan) for plan in _in_turn(lists)]
    told = list(accumulate((cost for cost in costs if cost is not None), initial=Cost()))
    counts = [count for count, cost in enumerate(told) if count <= 2 or ledger.limit_of(cost, SHARE) is None]
    ledger.kept_back = told[counts[-1]]


def heal_shortlists(
    loop: SearchLoop,
    ranked: Mapping[int, Sequence[PrunePlan]],
    top: int,
    price: Price,
    deadline: float | None,
    begin: Callable[[Sequence[PrunePlan]], None],
) -> Shortlists:
    """Heal the first plans of each size, measure them on the search windows, and rank them by that.

    The dense model is healed the same way, as a control. Of the full size, plans that keep to the bounds come first;
    plans whose healing ran away come last; ties stay in the order they had. No fit is begun that would pass a limit,
    and after the deadline none but the control and the first plan.

    Args:
        loop: of the search, which is over.
        ranked: the plans of each size, the best first.
        top: how many of a size.
        price: of healing one.
        deadline: by `time.monotonic`; None for never.
        begin: told of the plans that will be healed.
    """
    loop.ledger.kept_back = Cost()
    shortlists = {size: tuple(plans[:top]) for size, plans in ranked.items()}
    wanted = tuple(dict.fromkeys(_in_turn(shortlists)))
    calibrations = _charged(loop.ledger, wanted, price)
    if calibrations:
        begin(calibrations)
        loop.recorder.measure("healed-search", calibrations[:2])
        loop.recorder.measure("healed-search", calibrations, deadline=deadline)
    known = loop.recorder.known
    there = {plan for plan in calibrations[1:] if known.complete("healed-search", plan)}
    healed = {size: tuple(plan for plan in plans if plan in there) for size, plans in shortlists.items()}
    ordered = {size: tuple(sorted(plans, key=lambda plan: _score(loop, plan))) for size, plans in healed.items()}
    return Shortlists({size: plans for size, plans in ordered.items() if plans}, len(wanted) - 1 - len(there))


def _in_turn(shortlists: Mapping[int, Sequence[PrunePlan]]) -> Iterator[PrunePlan]:
    """The control, the first plan of every size from the largest down, then the second ones, and so on."""
    yield DENSE
    for plans in zip_longest(*(shortlists[size] for size in sorted(shortlists, reverse=True))):
        yield from (plan for plan in plans if plan is not None)


def _charged(ledger: Ledger, plans: Sequence[PrunePlan], price: Price) -> tuple[PrunePlan, ...]:
    """The plans up to the first whose healing would pass a limit, now charged for; none if only the control fits."""
    prices = [price(plan) for plan in plans]
    told = accumulate((cost or Cost() for cost in prices), initial=Cost())
    fitting = [count for count, cost in enumerate(told) if ledger.limit_of(ledger.charged + cost) is None]
    count = max(fitting, default=0)
    if count < 2:
        return ()
    for cost in filter(None, prices[:count]):
        ledger.charge_cost("shortlist", cost)
    return tuple(plans[:count])


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
