"""Evolutionary search: plans that mutate by swaps, the best of which have offspring."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Scores, Search, SearchStopped, Strategy
from strategies.beginnings import Beginning, measure_beginning

ATTEMPTS = 20
"""How often a new child is looked for before a generation goes without."""
FIRST_LOOK = 4
"""Offspring are first compared on one window in so many."""
TO_NEIGHBOUR = 0.25
"""Chance that a child's parent is of a neighbouring size, where several sizes are searched."""


@dataclass(frozen=True)
class Evolutionary(Strategy):
    """Let the best plans have offspring that differ from them by a few swaps, generation after generation.

    A child swaps min(U{1..swaps}, U{1..swaps}) removals of its parent for others, so that one swap is the likeliest
    number and several at once remain possible: that is how it leaves the places where no single swap helps. Offspring
    are compared on a quarter of the windows first, and only the best of them measured on all (multi-step selection).
    Parents are the best plans known, so none is lost or measured twice.

    When to use it: for the best plan that a few times greedy's cost can buy.

    Source: EvoPress (Sieberling et al. 2024, arXiv:2410.14649, Algorithm 1 and section 3), there from random plans and
    with one parent.

    Args:
        begin: where to begin without `--start`: at greedy's plan, or at random ones.
        generations: how many.
        offspring: children in a generation.
        survivors: how many of them are measured on all windows.
        parents: how many of the best plans have children.
        swaps: the most swaps between parent and child.
    """

    begin: Beginning = "greedy"
    generations: Annotated[int, Field(ge=1)] = 24
    offspring: Annotated[int, Field(ge=1)] = 24
    survivors: Annotated[int, Field(ge=1)] = 8
    parents: Annotated[int, Field(ge=1)] = 3
    swaps: Annotated[int, Field(ge=1)] = 3

    starts: ClassVar[bool] = True

    def search(self, space: Space) -> Search:
        """Several sizes take turns, and have children of each other's best plans."""
        board, rng = Scoreboard(space), space.rng()
        try:
            yield from measure_beginning(board, self.begin, rng, samples=self.offspring)
            for generation in range(self.generations):
                yield from self.generation(board, space.sizes[-1 - generation % len(space.sizes)], rng)
        except SearchStopped:
            pass
        return board.outcome()

    def generation(self, board: Scoreboard, size: int, rng: np.random.Generator) -> Generator[Ask, Scores, None]:
        """One generation of plans of this size.

        Raises:
            SearchStopped: a limit has come.
        """
        children = self._children(board, size, rng)
        if len(children) > self.survivors and board.space.num_windows >= FIRST_LOOK:
            children = yield from self._first_look(board, children)
        yield from board.measure(children[: self.survivors])

    def _first_look(self, board: Scoreboard, children: Sequence[PrunePlan]) -> Generator[Ask, Scores, list[PrunePlan]]:
        """The children, best first by a quarter of the windows."""
        look = tuple(range(board.space.num_windows // FIRST_LOOK))
        scores = (yield Ask(tuple(children), look)).measured()
        return sorted(children, key=lambda plan: (scores[plan], plan))

    def _children(self, board: Scoreboard, size: int, rng: np.random.Generator) -> list[PrunePlan]:
        """New plans, in the order they were born."""
        parents = {other: board.ranked(other)[: self.parents] for other in board.space.sizes}
        children: dict[PrunePlan, None] = {}
        for _ in range(self.offspring * ATTEMPTS):
            child = self._child(board.space, parents, size, rng)
            if child not in board.scores:
                children.setdefault(child)
            if len(children) == self.offspring:
                break
        return list(children)

    def _child(
        self, space: Space, parents: dict[int, tuple[PrunePlan, ...]], size: int, rng: np.random.Generator
    ) -> PrunePlan:
        neighbours = [other for other in (size - 1, size + 1) if parents.get(other)]
        if neighbours and rng.random() < TO_NEIGHBOUR:
            other = neighbours[int(rng.integers(len(neighbours)))]
            return _resized(space, _any(parents[other], rng), size, rng)
        swaps = rng.integers(1, self.swaps, size=2, endpoint=True).min()
        return space.swapped(rng, _any(parents[size], rng), int(swaps))


def _any(plans: Sequence[PrunePlan], rng: np.random.Generator) -> PrunePlan:
    return plans[int(rng.integers(len(plans)))]


def _resized(space: Space, plan: PrunePlan, size: int, rng: np.random.Generator) -> PrunePlan:
    """The plan with a removal more, or one undone."""
    return _any(space.extensions(plan) if space.size_of(plan) < size else space.reductions(plan), rng)
