"""Driving a search: its asks are answered until it ends, is stopped, or is given up."""

from collections.abc import Callable
from typing import TypeVar

from searcher.contracts.strategy import Ask, Outcome, Scores, Search, SearchStopped

Answer = Callable[[Ask], Scores | SearchStopped | None]
"""Scores of what was asked; or a limit, to be told to the search; or None, to give it up."""

Unfinished = TypeVar("Unfinished")


def drive(search: Search, answer: Answer, unfinished: Unfinished) -> Outcome | Unfinished:
    """Answer a search until it returns.

    Args:
        search: under way.
        answer: is called with every ask, in order.
        unfinished: what is returned for a search that did not catch :class:`SearchStopped`, or was given up.
    """
    try:
        ask = next(search)
        while (reply := answer(ask)) is not None:
            ask = search.throw(reply) if isinstance(reply, SearchStopped) else search.send(reply)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    except SearchStopped:
        return unfinished
    search.close()
    return unfinished
