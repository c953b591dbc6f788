"""EvoPress: an evolutionary search as published, on fresh windows in every generation."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Outcome, Scores, Search, SearchStopped, Strategy

SWAPS = 3
"""The most swaps between parent and child."""


@dataclass(frozen=True)
class EvoPress(Strategy):
    """One parent has offspring; they are compared on windows drawn anew, and the best of them may replace it.

    A child swaps min(U{1..3}, U{1..3}) removals of its parent. Selection goes in steps: all offspring on few windows,
    the best of them, with the parent, on more; every step draws its windows from all, so that parents are measured
    again on them. It begins with the best of random plans. The defaults keep the ratios of the published settings as
    far as a CPU allows; those are 32 offspring, 2 survivors, 2,048 and 32,768 tokens, 64 random plans.

    When to use it: to compare with the published algorithm; it wants many windows, and `--search-by kl` is published
    too. `evolutionary` and `bayesian` find more for the same cost.

    Source: EvoPress (Sieberling et al. 2024, arXiv:2410.14649), Algorithm 1 for the selection in steps, section 3 and
    appendix B for the mutation, the random beginning and the settings of depth pruning.

    Args:
        generations: how many; without a limit the search ends after them.
        offspring: children in a generation.
        survivors: how many of them meet the parent.
        beginnings: random plans, the best of which is the first parent.
        first: windows on which all offspring are compared.
        last: windows on which the survivors meet the parent.
    """

    generations: Annotated[int, Field(ge=1)] = 100
    offspring: Annotated[int, Field(ge=2)] = 32
    survivors: Annotated[int, Field(ge=1)] = 2
    beginnings: Annotated[int, Field(ge=1)] = 64
    first: Annotated[int, Field(ge=1)] = 1
    last: Annotated[int, Field(ge=1)] = 16

    fresh: ClassVar[bool] = True

    def search(self, space: Space) -> Search:
        """The full size; a range of sizes is searched for one after another, each with its share of generations."""
        parents: dict[int, PrunePlan] = {}
        rng = space.rng()
        try:
            for size in reversed(space.sizes):
                random = list(dict.fromkeys(space.sample(rng, size) for _ in range(self.beginnings)))
                parents[size] = random[0]
                parents[size] = (yield from _best(space, random, self.first, rng))[0]
            for generation in range(self.generations * len(space.sizes)):
                size = space.sizes[-1 - generation % len(space.sizes)]
                parents[size] = yield from self._next(space, parents[size], rng)
        except SearchStopped:
            pass
        return Outcome(tuple(parents.values()))

    def _next(self, space: Space, parent: PrunePlan, rng: np.random.Generator) -> Generator[Ask, Scores, PrunePlan]:
        """The parent of the next generation."""
        swaps = rng.integers(1, SWAPS, size=(self.offspring, 2), endpoint=True).min(axis=1)
        children = dict.fromkeys(space.swapped(rng, parent, int(count)) for count in swaps)
        survivors = yield from _best(space, list(children), self.first, rng)
        meeting = dict.fromkeys([*survivors[: self.survivors], parent])
        return (yield from _best(space, list(meeting), self.last, rng))[0]


def _best(
    space: Space, plans: Sequence[PrunePlan], windows: int, rng: np.random.Generator
) -> Generator[Ask, Scores, list[PrunePlan]]:
    """The plans, best first, by windows drawn anew."""
    drawn = sorted(rng.choice(space.num_windows, min(windows, space.num_windows), replace=False).tolist())
    scores = (yield Ask(tuple(plans), tuple(drawn))).first.tolist()
    return [plan for _, plan in sorted(zip(scores, plans, strict=True))]
