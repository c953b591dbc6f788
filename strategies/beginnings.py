"""Where strategies that improve plans begin: at a given plan, at greedy's, or anywhere."""

import dataclasses
from collections.abc import Generator
from typing import Literal

import numpy as np

from searcher.contracts.plan import PrunePlan
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.strategy import Ask, Scores, Search
from strategies.greedy import Greedy

Beginning = Literal["greedy", "random"]


def measure_beginning(
    board: Scoreboard, beginning: Beginning, rng: np.random.Generator, samples: int = 1
) -> Generator[Ask, Scores, None]:
    """Measure plans of every size asked for to begin with: from `space.start` if there is one.

    Args:
        board: learns them.
        beginning: where to begin without a given plan.
        rng: of the search.
        samples: how many random plans of each size.

    Raises:
        SearchStopped: a limit has come.
    """
    space = board.space
    if space.start is not None:
        yield from board.measure([space.start])
    elif beginning == "greedy":
        yield from greedily(board)
    else:
        yield from board.measure([space.sample(rng, size) for size in space.sizes for _ in range(samples)])
    yield from measure_missing(board)


def measure_missing(board: Scoreboard) -> Generator[Ask, Scores, None]:
    """Measure a plan of each size asked for of which none is known; some plan must be.

    Raises:
        SearchStopped: a limit has come.
    """
    for size in board.space.sizes:
        if not board.ranked(size):
            yield from board.measure(_of_size(board, size))


def greedily(board: Scoreboard) -> Search:
    """Greedy's search, every plan measured in full: what is dropped in a race would be missing on the board.

    Raises:
        SearchStopped: a limit has come.
    """
    return board.follow(Greedy().search(dataclasses.replace(board.space, racing=None, screening=None)))


def _of_size(board: Scoreboard, size: int) -> list[PrunePlan]:
    """Plans of this size made of the best of the nearest size that is known."""
    space = board.space
    known = {space.size_of(plan) for plan in board.scores}
    nearest = min(known, key=lambda other: (abs(other - size), other))
    best = board.ranked(nearest)[0]
    if nearest < size:
        return [space.filled(best, board.unit_order(), size)]
    dearest = sorted(best.units(space.granularity), key=board.unit_order().index, reverse=True)
    return [space.restored(best, *dearest[: nearest - size])]
