"""Contiguous removal: the best span of consecutive units."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.space import Space
from searcher.contracts.strategy import Outcome, Search, SearchStopped, Strategy
from searcher.errors import UsageError

_MAPS = {"cosine": ("state-cosines",), "angular": ("state-angles",), "loss": ()}

Value = Callable[[PrunePlan], float]
"""How bad a span is to remove."""


@dataclass(frozen=True)
class Contiguous(Strategy):
    """Remove n consecutive units: the span that changes the hidden states least, or the objective.

    When to use it: where a single gap is wanted, to heal it with one small module, or for the price of a dense pass.
    Many good plans are no span, and this finds none of them.

    With blocks, or attention and FFN mixed, the states before and after a span are compared. With attention alone or
    FFN alone a span leaves the sublayers between its units in place, and those two states say nothing about it: there
    the value of a span is the sum of what its units change, 1 - cosine or the angle of each.

    Source: cosine: the highest E[cos(h_l, h_{l+n})] (LLM-Streamline, Chen et al. 2024, arXiv:2403.19135). angular: the
    lowest arccos(cos(h_l, h_{l+n})) / pi at the last token (Gromov et al. 2024, arXiv:2403.17887). loss: every span is
    measured.

    Args:
        metric: what a span is chosen by. loss measures up to one plan a unit for each size, the others one.
    """

    metric: Literal["cosine", "angular", "loss"] = "cosine"

    @property
    def statistics(self) -> tuple[str, ...]:
        """The map of the metric."""
        return _MAPS[self.metric]

    def search(self, space: Space) -> Search:
        """The full size first, each size from the deepest span up.

        Raises:
            UsageError: no span of the full size is legal.
        """
        spans = {size: _spans(space, size) for size in reversed(space.sizes)}
        if not spans[space.size]:  # where there is one, there are spans of every smaller size within it
            raise UsageError(
                f"No {space.size} consecutive units may be removed together: protected ones or limits lie between",
                "Ask for less, protect less, or take a strategy that needs no span, such as influence or greedy",
            )
        board, value = Scoreboard(space), self._value(space)
        wanted = spans if value is None else {size: [_best(found, value)] for size, found in spans.items()}
        try:
            for plans in wanted.values():
                yield from board.measure(plans)
        except SearchStopped:
            pass
        return _outcome(self.metric, board, wanted, value)

    def _value(self, space: Space) -> Value | None:
        """What the statistics say of a span; None where it has to be measured."""
        if not self.statistics:
            return None
        states = space.statistics[self.statistics[0]]  # (boundaries, boundaries)
        change = states if self.metric == "angular" else 1 - states
        blocks = space.granularity is Granularity.BLOCK
        numbered = all_units(space.num_blocks, Granularity.BLOCK if blocks else Granularity.SUBLAYER)
        place = {unit: i for i, unit in enumerate(numbered)}  # a unit lies between the boundaries i and i + 1

        def value(span: PrunePlan) -> float:
            places = [place[unit] for unit in span.units(space.granularity)]
            if space.granularity in (Granularity.ATTENTION, Granularity.FFN):
                return sum(float(change[i, i + 1]) for i in places)
            return float(change[places[0], places[-1] + 1])

        return value


def _spans(space: Space, size: int) -> list[PrunePlan]:
    """The legal plans that remove this many consecutive units, the deepest first."""
    units = all_units(space.num_blocks, space.granularity)
    plans = (PrunePlan.of(units[start : start + size]) for start in reversed(range(len(units) - size + 1)))
    return [plan for plan in plans if space.allows(plan)]


def _best(spans: list[PrunePlan], value: Value) -> PrunePlan:
    """The span of the lowest value; where the model broke, and there is none, any other goes before it."""

    def rank(span: PrunePlan) -> tuple[float, PrunePlan]:
        found = value(span)
        return (found if math.isfinite(found) else math.inf, span)

    return min(spans, key=rank)


def _outcome(metric: str, board: Scoreboard, wanted: dict[int, list[PrunePlan]], value: Value | None) -> Outcome:
    """The best span of each size, the full one first; of a size of which nothing was measured, the deepest."""
    chosen = {size: (*board.ranked(size), *plans)[0] for size, plans in wanted.items()}
    told = {}
    for size, plan in chosen.items():
        found = board.scores.get(plan, math.nan) if value is None else value(plan)
        told[str(size)] = {"plan": str(plan), "value": found if math.isfinite(found) else None}
    others = [plan for size in wanted for plan in board.ranked(size)]
    return Outcome(tuple(dict.fromkeys((*chosen.values(), *others))), {"metric": metric, "spans": told})
