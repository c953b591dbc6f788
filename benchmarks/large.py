"""A greedy search over a model of a size that people use: the usual loop, ours in every way there is, and the floor."""

from collections.abc import Callable, Sequence
from typing import Any

import psutil

from benchmarks.common import Opened, report
from benchmarks.evaluator import OURS, SAMPLE, Ours, greedy, greedy_plans, rates, spread
from benchmarks.setting import Setting
from benchmarks.shapes import open_shape
from benchmarks.steps import Steps
from benchmarks.usual import usual_loop
from searcher.architecture.devices import forget_most_bytes_taken, most_bytes_taken
from searcher.contracts.plan import Granularity, PrunePlan, all_units

SIZE = 2
"""Blocks that greedy removes; of a quick benchmark one."""

Search = Callable[[Opened, int, Callable[[float], None]], Ours]
"""Runs greedy of a size, told of every part of a plan that is done; returns what it has measured with."""


def resident(opened: Opened, size: int, done: Callable[[float], None]) -> Ours:
    """Ours with all weights on the device."""
    ours = Ours(opened, done)
    greedy(opened.replay.num_blocks, size, ours.score)
    return ours


WAYS: dict[str, Search] = {"searcher": resident}
"""What is measured beside the usual loop, by the name of its row."""


def measure_large(shape: str, setting: Setting) -> None:
    """Measure every way on a random model of this shape, print the table, and write it where the setting says.

    The usual loop runs a sample of the plans, before and after the others. The floor of a way is the time that the
    blocks and heads it has run would take at the rate of their shapes, taken in the same run.
    """
    with Steps(f"shape {shape}") as steps:
        opened = open_shape(shape, setting)
        blocks, size = opened.replay.num_blocks, 1 if setting.quick else SIZE
        sample = spread([PrunePlan.of([unit]) for unit in all_units(blocks, Granularity.BLOCK)], SAMPLE)
        steps.expect(2 * len(sample) + OURS * greedy_plans(blocks, size) * len(WAYS))
        first, losses, _ = _usual(opened, sample, steps)
        found = [_way_rows(name, run, opened, size, sample, losses, steps) for name, run in WAYS.items()]
        second, _, gib = _usual(opened, sample, steps)
    usual = (first + second) / 2
    rows = [_row("usual loop", len(sample), usual, gib), *(row for rows in found for row in rows)]
    for row in rows:
        row["faster"] = usual / row["seconds a plan"]
    weights = sum(parameter.nbytes for parameter in opened.loaded.model.parameters()) / 2**30
    title = f"Greedy {size} at the size people use: {opened.described}"
    report(setting, f"shape-{shape}-{opened.kind}", title, rows, weights_gib=weights)


def _usual(opened: Opened, sample: Sequence[PrunePlan], steps: Steps) -> tuple[float, list[float], float]:
    """Seconds of a plan, the losses, and the most memory."""
    steps.at("the usual loop")
    forget_most_bytes_taken(opened.loaded.device)
    usual_loop(opened, sample[:1])  # the first time is slow
    seconds, losses = usual_loop(opened, sample, steps.done)
    return seconds, losses, _gib(opened)


def _way_rows(
    name: str, run: Search, opened: Opened, size: int, sample: Sequence[PrunePlan], losses: list[float], steps: Steps
) -> list[dict[str, Any]]:
    """What a way took, and its floor."""
    before = rates(opened)
    steps.at(name)
    forget_most_bytes_taken(opened.loaded.device)
    ours = run(opened, size, lambda part: steps.done(OURS * part))
    gib, timed = _gib(opened), ours.timed
    block, head = ((one + other) / 2 for one, other in zip(before, rates(opened), strict=True))
    floor = (timed.run * block + timed.heads * head) / timed.plans
    differs = max(abs(one - other) for one, other in zip(ours.score(sample), losses, strict=True))
    measured = _row(name, timed.plans, timed.seconds / timed.plans, gib) | {"loss differs by": differs}
    return [measured, _row(f"floor of {name}", timed.plans, floor, None)]


def _row(name: str, plans: int, seconds: float, gib: float | None) -> dict[str, Any]:
    return {"way": name, "plans": plans, "seconds a plan": seconds, "faster": 0.0, "GiB": gib, "loss differs by": None}


def _gib(opened: Opened) -> float:
    """The most memory that was taken on an accelerator since it was last forgotten; on a CPU what is taken now."""
    most = most_bytes_taken(opened.loaded.device)
    return (psutil.Process().memory_info().rss if most is None else most) / 2**30
