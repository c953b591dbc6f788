"""The final of a search: its best plans meet on windows that none of them was chosen on."""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.plan import DENSE, Granularity, PrunePlan
from searcher.contracts.strategy import Ask, Scores
from strategies.looks import Looks
from strategies.posterior import Surrogate

STAGES = (1 / 8, 3 / 8, 1.0)
"""How far into the unseen windows each stage of a final goes; after each the worse half leaves."""
RESAMPLES = 1000
"""Of the windows, to see whether the same plan comes out first."""
LAST = 3
"""Plans of each size that are measured on all windows in the end."""


@dataclass
class Final:
    """How a final goes.

    Attributes:
        windows: those that no plan was chosen on.
        order: by size, the plans that were in the final, the best first.
        in_full: by size, float64 (plans, windows): of the best of these in that order, their scores on all windows.
    """

    windows: tuple[int, ...]
    order: dict[int, list[PrunePlan]] = field(default_factory=dict)
    in_full: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def notes(self) -> dict[str, Any]:
        """JSON values, and lines for the user: how sure the choice is."""
        met = {size: scores for size, scores in self.in_full.items() if len(scores) > 1}  # else there is no choice
        sizes = {str(size): _stability(self.order[size], scores) for size, scores in met.items()}
        lines = {size: _line(sizes[str(size)], scores.shape[1]) for size, scores in met.items()}
        told = [f"{size}: {line}" if len(lines) > 1 else line for size, line in lines.items()]
        return {"final": {"windows": len(self.windows), "sizes": sizes}, "summary": told}


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
    best = {size: plans[:LAST] for size, plans in last.order.items() if plans}
    every = range(looks.space.num_windows)
    yield from looks.look([plan for plans in best.values() for plan in plans], every)
    for size, plans in best.items():
        scores = looks.scores(plans, every)
        ranking = sorted(range(len(scores)), key=lambda i: (float(scores[i].mean()), plans[i]))
        last.order[size][: len(ranking)] = [plans[i] for i in ranking]
        if np.isfinite(scores).all():
            last.in_full[size] = scores[ranking]


def _stability(order: Sequence[PrunePlan], scores: NDArray[np.float64]) -> dict[str, Any]:
    """In what share of resamples of the windows the first plan stays first, and what all of them remove.

    Args:
        order: of the plans that were measured in full, several, and others after them.
        scores: float64 (plans measured in full, windows).
    """
    drawn = np.random.default_rng(0).integers(scores.shape[1], size=(RESAMPLES, scores.shape[1]))
    firsts = scores[:, drawn].mean(axis=2).argmin(axis=0)
    plans = order[: len(scores)]
    shared = PrunePlan.of(set.intersection(*(set(plan.units(Granularity.SUBLAYER)) for plan in plans)))
    share = float((firsts == 0).mean())
    return {"plans": list(map(str, plans)), "ahead": share, "all_remove": str(shared)}


def _line(found: Mapping[str, Any], windows: int) -> str:
    first, *others = found["plans"]
    shared = found["all_remove"]
    common = "no removal is common to them" if shared == str(DENSE) else f"all remove {shared}"
    return (
        f"In {found['ahead']:.0%} of resamples of the {windows} windows {first} stays ahead of {' and '.join(others)}; "
        f"{common}."
    )


def _entering(count: int, stage: int) -> int:
    """How many of so many finalists enter a stage."""
    return max(min(count, LAST), math.ceil(count / (1 << stage)))
