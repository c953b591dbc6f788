"""Greedy against other strategies at equal cost, and greedy with more text for the same cost."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.strategies import UNTIL_THE_LIMIT
from results.run import Run
from study.setting import Setting
from study.tiers import ALLOWANCE, MORE_TEXT, Space


@dataclass(frozen=True)
class Search:
    """A finished search of the study.

    Attributes:
        text: what was searched on: prose, manual, code or choices.
        method: the strategy, or `greedy, more text`.
        size: units removed.
        run: the finished run.
    """

    text: str
    method: str
    size: int
    run: Run


def search_prose(setting: Setting) -> Iterator[Search]:
    """Every granularity, data seed and size."""
    for space in setting.tier.spaces:
        for seed in setting.tier.data_seeds:
            for size in reversed(space.sizes):  # greedy's largest plan holds the way to the smaller ones
                yield from compare(setting, space, size, seed)


def count_searches(setting: Setting) -> int:
    """How many searches :func:`search_prose` makes."""
    tier = setting.tier
    return len(tier.data_seeds) * sum(
        len(space.sizes) * (1 + len(tier.strategies)) + len(space.more_text) for space in tier.spaces
    )


def compare(setting: Setting, space: Space, size: int, seed: int, text: str = "prose") -> Iterator[Search]:
    """Greedy's run, then the other strategies at the allowance, then greedy at the allowance."""
    greedy = setting.run("greedy", space, size, seed, text)
    yield Search(text, "greedy", size, greedy)
    limit = ALLOWANCE * greedy.outcome["cost"]["charged"]["total"]
    for strategy in setting.tier.strategies:
        args = UNTIL_THE_LIMIT.get(strategy, {})
        yield Search(
            text, strategy, size, setting.run(strategy, space, size, seed, text, strategy_args=args, max_cost=limit)
        )
    if text == "prose" and size in space.more_text:
        more: dict[str, Any] = {"name": "greedy-more-text", "windows": round(ALLOWANCE * space.windows)}
        yield Search(text, MORE_TEXT, size, setting.run("greedy", space, size, seed, text, **more))
