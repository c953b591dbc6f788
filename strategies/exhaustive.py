"""Every plan there is: a certificate of the optimum."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.space import Space
from searcher.contracts.strategy import Search, SearchStopped, Strategy
from searcher.errors import UsageError

BATCH = 2000
"""Plans asked for together: enough to share most of their prefixes, few enough to keep what is asked small."""


@dataclass(frozen=True)
class Exhaustive(Strategy):
    """Measure every plan of the sizes asked for: the best of them is the optimum on the search windows.

    When to use it: to know for certain, where there are few enough plans; with `--keep`, `spans` or `every` a space can
    be made small enough. The certificate says how many plans there were, which is best, and by how much.

    Args:
        most: refuse a space of more plans than this before anything is measured.
        spans: only plans that remove consecutive units.
        every: only every so many-th of the legal units may be removed, from the first on.
    """

    most: Annotated[int, Field(ge=1)] = 20_000
    spans: bool = False
    every: Annotated[int, Field(ge=1)] = 1

    def search(self, space: Space) -> Search:
        """In the order of the units, so that neighbours share their beginnings."""
        board = Scoreboard(space)
        narrowed = dataclasses.replace(space, units=space.units[:: self.every])
        self._check(narrowed)
        try:
            for size in space.sizes:
                plans = self._plans(narrowed, size)
                while batch := tuple(islice(plans, BATCH)):
                    yield from board.measure(batch)
        except SearchStopped:
            pass
        return board.outcome(self._notes(board, narrowed))

    def _check(self, space: Space) -> None:
        """Raises UsageError if there are too many plans, or none of the full size."""
        counts = {size: self._count(space, size) for size in space.sizes}
        if not counts[space.size]:
            raise UsageError(f"There is no plan of size {space.size} in this space", "Ask for less, or widen it")
        if sum(counts.values()) > self.most:
            raise UsageError(
                f"There are {sum(counts.values()):,} plans, more than the {self.most:,} that option 'most' allows",
                "Narrow the space with --keep, spans=true or every=2, ask for less, or raise most",
            )

    def _count(self, space: Space, size: int) -> int:
        return sum(1 for _ in self._plans(space, size)) if self.spans else space.count(size)

    def _plans(self, space: Space, size: int) -> Iterator[PrunePlan]:
        if not self.spans:
            return space.plans(size)
        ends = range(size, len(space.units) + 1)
        spans = (PrunePlan.of(space.units[end - size : end]) for end in ends)
        return (span for span in spans if space.allows(span))

    def _notes(self, board: Scoreboard, space: Space) -> dict[str, Any]:
        certificates = {str(size): self._certificate(board, space, size) for size in space.sizes}
        return {"certificates": certificates, "summary": [_line(size, c) for size, c in certificates.items()]}

    def _certificate(self, board: Scoreboard, space: Space, size: int) -> dict[str, Any]:
        ranked, count = board.ranked(size), self._count(space, size)
        return {
            "plans": count,
            "measured": len(ranked),
            "complete": len(ranked) == count,
            "best": [{"plan": str(plan), "score": board.scores[plan]} for plan in ranked[:2]],
        }


def _line(size: str, certificate: dict[str, Any]) -> str:
    measured, plans = certificate["measured"], certificate["plans"]
    if not certificate["complete"]:
        return f"Size {size}: {measured:,} of {plans:,} plans were measured: no certificate."
    return f"Size {size}: {certificate['best'][0]['plan']} is the optimum of all {plans:,} plans on the search windows."
