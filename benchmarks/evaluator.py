"""The usual loop against searcher on the batches of plans that searches ask for; and how near that is to the floor."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from benchmarks.common import Opened, loss_of, measure, open_model, report, side_by_side
from benchmarks.setting import Setting, command, start
from benchmarks.steps import Steps
from benchmarks.usual import usual_loop
from searcher.contracts.plan import Action, Granularity, PrunePlan, Unit, all_units
from searcher.contracts.trie import layer_forwards, plan_path
from searcher.errors import UsageError
from searcher.evaluation.evaluator import Evaluator
from searcher.runs.measurement import Measurements

DEFAULTS = Setting()
SAMPLE = 6
"""Plans of a batch that the usual loop runs, before ours and after."""
MOST = 192
"""Plans of a batch that is cut short, where it would be longer; in a quick benchmark a twelfth of that."""
OURS = 0.3
"""What a plan is expected to take of the time that the usual loop takes for it."""

Score = Callable[[Sequence[PrunePlan]], Sequence[float]]
Rate = tuple[float, float]
"""Seconds of one block, and of one head with its loss, for all windows with all cores busy."""


@dataclass
class Timed:
    """What a batch cost."""

    plans: int = 0
    trie: float = 0.0
    seconds: float = 0.0
    run: float = 0.0
    heads: int = 0


def removals(units: int) -> int:
    """How many are removed: 8 of 30 blocks."""
    return units * 4 // 15


def greedy(blocks: int, size: int, score: Score) -> PrunePlan:
    """The usual greedy search over blocks; every round is one batch."""
    plan = PrunePlan()
    for _ in range(size):
        candidates = [plan.remove(unit) for unit in all_units(blocks, Granularity.BLOCK) if unit not in plan.removed]
        losses = score(candidates)
        plan = min(zip(losses, candidates, strict=True))[1]
    return plan


def greedy_plans(blocks: int, size: int) -> int:
    """How many plans that asks about."""
    return sum(blocks - removed for removed in range(size))


def batches(blocks: int, granularity: Granularity) -> Iterator[tuple[str, list[PrunePlan]]]:
    """What searches ask for in one go."""
    units, rng = all_units(blocks, granularity), np.random.default_rng(0)
    size = removals(len(units))
    yield "leave one out", [PrunePlan.of([unit]) for unit in units]
    chains = [rng.permutation(len(units)) for _ in range(16)]
    yield (
        "16 Shapley chains",
        [PrunePlan.of(units[i] for i in chain[:n]) for chain in chains for n in range(1, size + 1)],
    )
    if granularity is Granularity.BLOCK:
        yield "all pairs", [PrunePlan.of(pair) for pair in combinations(units, 2)]
    parent = [units[i] for i in sorted(rng.choice(len(units), size, replace=False))]
    outside = [unit for unit in units if unit not in parent]
    yield "evolutionary generation of 32", [_mutated(parent, outside, rng) for _ in range(32)]
    swaps = [PrunePlan.of({*parent, new} - {old}) for old in parent for new in outside]
    yield "1-swap neighbourhood", spread(swaps, MOST)


def _mutated(parent: Sequence[Unit], outside: Sequence[Unit], rng: np.random.Generator) -> PrunePlan:
    """One or two units put back, as many others removed."""
    swaps = min(int(rng.integers(1, 3)), len(parent))
    back, gone = (rng.choice(len(some), swaps, replace=False) for some in (parent, outside))
    return PrunePlan.of({*parent, *(outside[i] for i in gone)} - {parent[i] for i in back})


def spread(plans: Sequence[PrunePlan], count: int) -> list[PrunePlan]:
    """So many of them at most, evenly spread."""
    return [plans[i * len(plans) // count] for i in range(count)] if count < len(plans) else list(plans)


class Ours:
    """Measures with an executor, and counts.

    Args:
        opened: the model.
        done: told what part of a plan has been measured.
    """

    def __init__(self, opened: Opened, done: Callable[[float], None] = lambda _: None) -> None:
        self._executor, self._weight, self._windows = opened.executor(), opened.prices.weight, len(opened.ids)
        self._known, self._done = Measurements(self._executor.layout), done
        measure(self._executor, [PrunePlan()], self._known)  # makes the threads' evaluators
        self.timed = Timed()

    def score(self, plans: Sequence[PrunePlan]) -> list[float]:
        """The mean loss of each plan."""
        new = [plan for plan in dict.fromkeys(plans) if not self._known.complete("search", plan)]
        paths = [plan_path(plan, self._executor.evaluator.replay.num_blocks) for plan in new]
        started = time.perf_counter()
        run = measure(self._executor, plans, self._known, self._done)
        self.timed.seconds += time.perf_counter() - started
        self.timed.plans += len(new)
        self.timed.trie += layer_forwards(paths, self._weight)
        self.timed.run += run / self._windows
        self.timed.heads += len(new)
        return [loss_of(self._known, plan) for plan in plans]


def rates(opened: Opened) -> Rate:
    """Of blocks and heads as every core runs them in a search."""
    evaluators, ids = opened.at_work()

    def block(evaluator: Evaluator) -> None:
        hidden = evaluator.replay.embed(ids)
        for number in range(evaluator.replay.num_blocks):
            hidden = evaluator.replay.run_block(hidden, number, Action.KEEP)

    def head(evaluator: Evaluator) -> None:
        evaluator.replay.head.losses(evaluator.replay.embed(ids), ids)

    parts = len(opened.ids) / len(ids) / len(evaluators)
    blocks = side_by_side(evaluators, block, 4) / opened.replay.num_blocks
    return blocks * parts, side_by_side(evaluators, head, 8) * parts


def row(name: str, granularity: Granularity, timed: Timed, usual: float, before: Rate, after: Rate) -> dict[str, Any]:
    """A line of the table; the rates were taken before the batch and after it."""
    block, head = ((one + other) / 2 for one, other in zip(before, after, strict=True))
    return {
        "batch": name,
        "units": str(granularity),
        "plans": timed.plans,
        "layer-forwards as a trie": timed.trie,
        "run": timed.run,
        "usual s": usual,
        "ours s": timed.seconds,
        "faster": usual / timed.seconds,
        "of floor": (timed.run * block + timed.heads * head) / timed.seconds,
        "of floor without kept states": (timed.trie * block + timed.heads * head) / timed.seconds,
        "peak GiB": psutil.Process().memory_info().rss / 2**30,
    }


def greedy_row(opened: Opened, size: int, steps: Steps) -> dict[str, Any]:
    """Greedy both ways, in full, to the end: the same plan and losses."""
    blocks, name = opened.replay.num_blocks, f"greedy {size}"
    steps.at(name)
    before, ours = rates(opened), Ours(opened, lambda part: steps.done(OURS * part))
    found = greedy(blocks, size, ours.score)
    after = rates(opened)
    steps.at(f"{name}, the usual loop")
    started = time.perf_counter()
    expected = greedy(blocks, size, lambda plans: usual_loop(opened, plans, steps.done)[1])
    seconds = time.perf_counter() - started
    line = row(name, Granularity.BLOCK, ours.timed, seconds, before, after)
    difference = abs(ours.score([found])[0] - usual_loop(opened, [found])[1][0])
    return line | {"plan": str(found), "same plan": str(found == expected), "loss differs by": difference}


def batch_row(
    opened: Opened, name: str, granularity: Granularity, plans: Sequence[PrunePlan], steps: Steps
) -> dict[str, Any]:
    """A batch once, the usual loop on a sample of it before and after."""
    steps.at(f"{name}, {granularity}")
    sample = spread(plans, SAMPLE)
    first, losses = usual_loop(opened, sample, steps.done)
    before, ours = rates(opened), Ours(opened, lambda part: steps.done(OURS * part))
    ours.score(plans)
    after = rates(opened)
    second, _ = usual_loop(opened, sample, steps.done)
    difference = max(abs(one - other) for one, other in zip(ours.score(sample), losses, strict=True))
    line = row(name, granularity, ours.timed, (first + second) / 2 * len(plans), before, after)
    return line | {"plan": "", "same plan": "", "loss differs by": difference}


def main(
    setting: Setting,
    granularity: Annotated[list[Granularity] | None, typer.Option(help="block, sublayer; default both")] = None,
    only: Annotated[str, typer.Option(help="only batches whose name holds this")] = "",
) -> None:
    """How many times as fast as the usual loop batches of plans are measured, and how near that is to the floor.

    The batches are those that searches ask for: greedy, Shapley chains, all pairs, an evolutionary generation, a 1-swap
    neighbourhood. The floor is the time that the blocks and heads which were run would take at the rate of these
    shapes, measured in the same run with all cores busy: what is above it is ours to save. The usual loop runs greedy
    in full; of the other batches it runs a sample of plans, taken before and after ours, and is scaled to all of them.

    Takes about 9 minutes on 2 cores with AMX, in float32 over twice that.
    """
    with Steps("evaluator") as steps:
        opened = open_model(setting)
        blocks = opened.replay.num_blocks
        size = 2 if setting.quick else removals(blocks)
        with_greedy = Granularity.BLOCK in (granularity or [Granularity.BLOCK]) and only in f"greedy {size}"
        asked = [
            (units, name, spread(list(dict.fromkeys(plans)), MOST // 12 if setting.quick else len(plans)))
            for units in granularity or [Granularity.BLOCK, Granularity.SUBLAYER]
            for name, plans in batches(blocks, units)
            if only in name
        ]
        if not (asked or with_greedy):
            raise UsageError(f"No batch has '{only}' in its name", "Such are: greedy, chains, pairs, swap")
        work = with_greedy * greedy_plans(blocks, size) * (1 + OURS)
        steps.expect(work + sum(2 * min(SAMPLE, len(plans)) + OURS * len(plans) for _, _, plans in asked))
        rows = [greedy_row(opened, size, steps)] if with_greedy else []
        checked = {units: opened.at(units) for units in dict.fromkeys(units for units, _, _ in asked)}
        rows += [batch_row(checked[units], name, units, plans, steps) for units, name, plans in asked]
    part = [*map(str, granularity or []), *only.split()]
    title = f"The usual loop against searcher: {opened.described}"
    report(setting, "-".join(["evaluator", opened.kind, *part]), title, rows)


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)
