"""The best plans of a search, each healed and measured again: healing may change which of them is best."""

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from searcher.contracts.cost import Cost
from searcher.contracts.ledger import Charge, Ledger
from searcher.contracts.objective import HEALED, Split
from searcher.contracts.plan import DENSE, PrunePlan
from searcher.contracts.space import Space
from searcher.healing.healer import KEPT_REPAIRS
from searcher.runs.measurement import Measurement
from searcher.search.halving import Lists, Price, Round, cost_of, first_of, half, in_turn
from searcher.search.loop import SearchLoop

SHARE = 0.5
"""Of a limit, what is kept back at most for healing a shortlist, if that leaves room for the first of its plans."""

Begin = Callable[[Round, Sequence[PrunePlan]], None]
"""Is told of a round, and of the plans that will be healed in it."""


@dataclass(frozen=True)
class RoundEnd:
    """What a round has come to.

    Attributes:
        round: which it was.
        healed: the plans of each size that were healed and measured in it, the best first.
        dropped: of these, those that did not go on.
        charged: what it was charged.
    """

    round: Round
    healed: dict[int, tuple[PrunePlan, ...]]
    dropped: dict[int, tuple[PrunePlan, ...]]
    charged: Cost


@dataclass(frozen=True)
class Shortlists:
    """What healing has made of the best plans.

    Attributes:
        healed: the plans of each size that were healed in full, the best after healing first.
        left_out: how many neither were nor were dropped by a round before, since a limit came first.
        rounds: how each round ended, the last of them too.
    """

    healed: dict[int, tuple[PrunePlan, ...]]
    left_out: int
    rounds: tuple[RoundEnd, ...] = ()


def keep_back(ledger: Ledger, space: Space, top: int, rounds: Sequence[Round], price: Price) -> None:
    """Keep back the cost of healing the shortlists, or of as many of their plans as `SHARE` of the limits allows.

    The control and one plan are kept back in any case. Which plans will be healed is not known before the search; the
    units of those that are counted here lie as far apart as they can.

    Args:
        ledger: of the search.
        space: of the search.
        top: how many plans of a size are healed.
        rounds: of healing.
        price: of healing one.
    """
    alternating = (*space.units[::2], *space.units[1::2])
    like = {size: space.filled(DENSE, alternating, size) for size in space.sizes}
    lists = {size: (plan,) * min(top, space.count(size)) for size, plan in like.items()}
    most = max(1, _how_many(ledger, lists, rounds, cache(price), Cost(), SHARE))
    ledger.kept_back = cost_of(first_of(lists, most), rounds, price)


def _how_many(ledger: Ledger, lists: Lists, rounds: Sequence[Round], price: Price, spent: Cost, share: float) -> int:
    """How many of these plans, in turn, this share of the limits has room to heal, together with the control."""

    def too_much(count: int) -> bool:
        return ledger.limit_of(spent + cost_of(first_of(lists, count), rounds, price), share) is not None

    return bisect_right(range(1, 1 + sum(map(len, lists.values()))), False, key=too_much)


def heal_shortlists(
    loop: SearchLoop,
    ranked: Lists,
    top: int,
    rounds: Sequence[Round],
    price: Price,
    deadline: float | None,
    begin: Begin,
) -> Shortlists:
    """Heal the first plans of each size in rounds, rank them by what they score healed on the search windows.

    After each round but the last, the better half of each size goes on; a single plan goes on without being healed.
    In the last round the dense model is healed the same way, as a control. Of the full size, plans that keep to the
    bounds come first; plans whose healing ran away come last; ties stay in the order they had. Plans of which not all
    rounds fit a limit are not begun with. After the deadline no fit is begun but those of the control and the first
    plan in the last round.

    Args:
        loop: of the search, which is over.
        ranked: the plans of each size, the best first.
        top: how many of a size.
        rounds: of healing, the last with all steps.
        price: of healing one.
        deadline: by `time.monotonic`; None for never.
        begin: told of each round.
    """
    loop.ledger.kept_back = Cost()
    wanted = {size: tuple(plans[:top]) for size, plans in ranked.items()}
    count = _how_many(loop.ledger, wanted, rounds, cache(price), loop.ledger.charged, 1.0)
    lists: Lists = first_of(wanted, count)
    ends: list[RoundEnd] = []
    for one in rounds[:-1]:
        if several := {size: plans for size, plans in lists.items() if len(plans) > 1}:
            ends.append(_heal_round(loop, one, several, price, deadline, begin))
            lists = {size: _going_on(plans, ends[-1].healed.get(size)) for size, plans in lists.items()}
    last = _heal_last(loop, rounds[-1], lists, price, deadline, begin)
    done = sum(len(plans) for end in ends for plans in end.dropped.values()) + sum(map(len, last.healed.values()))
    return Shortlists(last.healed, sum(map(len, wanted.values())) - done, (*ends, last))


def _going_on(plans: Sequence[PrunePlan], healed: Sequence[PrunePlan] | None) -> Sequence[PrunePlan]:
    """Those of a size that go on; where the deadline has left none healed, the order stays."""
    return (healed or plans)[: half(len(plans))]


def _heal_round(
    loop: SearchLoop, one: Round, lists: Lists, price: Price, deadline: float | None, begin: Begin
) -> RoundEnd:
    """A round before the last, of sizes with several plans."""
    plans = tuple(in_turn(lists))
    charged = _charge(loop.ledger, "rounds", plans, one, price)
    if deadline is None or time.monotonic() < deadline:
        begin(one, plans)
    _measure(loop, one.split, plans, deadline)
    healed = _ranked(loop, one.split, lists)
    dropped = {size: found[half(len(lists[size])) :] for size, found in healed.items()}
    return RoundEnd(one, healed, {size: plans for size, plans in dropped.items() if plans}, charged)


def _heal_last(
    loop: SearchLoop, one: Round, lists: Lists, price: Price, deadline: float | None, begin: Begin
) -> RoundEnd:
    """The last round: the control too, and if there is a plan at all, the control and the first in any case."""
    plans = tuple(in_turn(lists))
    if not plans:
        return RoundEnd(one, {}, {}, Cost())
    charged = _charge(loop.ledger, "shortlist", (DENSE, *plans), one, price)
    begin(one, (DENSE, *plans))
    _measure(loop, one.split, (DENSE, plans[0]), None)
    _measure(loop, one.split, (DENSE, *plans), deadline)
    return RoundEnd(one, _ranked(loop, one.split, lists), {}, charged)


def _charge(ledger: Ledger, charge: Charge, plans: Sequence[PrunePlan], one: Round, price: Price) -> Cost:
    """Charge for healing these plans; how much that is."""
    costs = [cost for plan in plans if (cost := price(plan, one.share)) is not None]
    for cost in costs:
        ledger.charge_cost(charge, cost)
    return sum(costs, Cost())


def _measure(loop: SearchLoop, split: Split, plans: Sequence[PrunePlan], deadline: float | None) -> None:
    """Measure healed plans; where there are several groups, as many together as repairs are kept for the next group."""
    several = len(loop.recorder.executor.layout[split]) > 1
    together = KEPT_REPAIRS if several else len(plans)
    for first in range(0, len(plans), together):
        loop.recorder.measure(split, plans[first : first + together], deadline=deadline)


def _ranked(loop: SearchLoop, split: Split, lists: Lists) -> dict[int, tuple[PrunePlan, ...]]:
    """The plans of each size that have been measured healed, the best first; sizes without any are left out."""
    complete = loop.recorder.known.complete
    there = {size: [plan for plan in plans if complete(split, plan)] for size, plans in lists.items()}
    return {size: tuple(sorted(plans, key=lambda p: _score(loop, p, split))) for size, plans in there.items() if plans}


def healing_work(lines: Sequence[Measurement], *splits: Split) -> dict[str, float]:
    """What healing the shortlist, and measuring it healed, has taken: blocks and heads over a window, and seconds.

    Args:
        lines: of the run.
        splits: of which rounds; of all of them, and of the report, if none is named.
    """
    healed = [line for line in lines if line.split in (splits or HEALED) and not line.run]
    return {
        "layer_forwards": sum(line.layer_forwards for line in healed),
        "heads": sum(line.heads for line in healed),
        "seconds": sum(line.seconds for line in healed),
    }


def _score(loop: SearchLoop, plan: PrunePlan, split: Split) -> float:
    full_size = loop.space.size_of(plan) == loop.space.size
    values, _ = loop.goals.scores(loop.rows(plan, split), range(loop.space.num_windows), full_size)
    return float(values[0])
