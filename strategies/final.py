"""The final of a search: its best plans meet on windows that none of them was chosen on."""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from searcher.contracts.plan import PrunePlan
from searcher.contracts.strategy import Ask, Scores
from strategies.looks import Looks
from strategies.posterior import Surrogate

STAGES = (1 / 8, 3 / 8, 1.0)
"""How far into the unseen windows each stage of a final goes; after each the worse half leaves."""
LAST = 3
"""Plans of each size that are measured on all windows in the end."""


@dataclass
class Final:
    """How a final goes.

    Attributes:
        windows: those that no plan was chosen on.
        finalists: how many plans begin.
        order: by size, the plans that were in the final, the best first.
    """

    windows: tuple[int, ...]
    finalists: int
    order: dict[int, list[PrunePlan]] = field(default_factory=dict)

    def notes(self) -> dict[str, Any]:
        """JSON values, and lines for the user."""
        return {}


def reserve(finalists: int) -> int:
    """How many plans in full a final of so many plans takes at most; half of the windows are unseen."""
    parts = (end - begin for begin, end in pairwise((0.0, *STAGES)))
    shares = (_entering(finalists, stage) * part for stage, part in enumerate(parts))
    return math.ceil(sum(shares) / 2 + LAST / 2)


def final(
    last: Final, looks: Looks, surrogate: Surrogate, shortlists: Mapping[int, Sequence[PrunePlan]]
) -> Generator[Ask, Scores, None]:
    """Let plans of equal size meet: after each stage the worse half leaves; the best three are measured on all windows.

    Args:
        last: is told the order.
        looks: what was seen before; what is seen now is added.
        surrogate: puts together what all looks say.
        shortlists: the plans of each size.

    Raises:
        SearchStopped: a limit has come; the order is that of what was known until then.
    """
    last.order = {size: list(plans) for size, plans in shortlists.items()}
    ends = [round(share * len(last.windows)) for share in STAGES]
    for stage, (begin, end) in enumerate(pairwise((0, *ends))):
        entering = {size: plans[: _entering(len(plans), stage)] for size, plans in last.order.items()}
        if end > begin:
            yield from looks.look([plan for plans in entering.values() for plan in plans], last.windows[begin:end])
            for size, plans in entering.items():
                last.order[size][: len(plans)] = surrogate.order(plans, size)
    best = [plan for plans in last.order.values() for plan in plans[:LAST]]
    yield from looks.look(best, range(looks.space.num_windows))


def _entering(count: int, stage: int) -> int:
    """How many of so many finalists enter a stage."""
    return max(min(count, LAST), math.ceil(count / (1 << stage)))
