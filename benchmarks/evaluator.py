"""The usual loop against searcher on the batches of plans that searches ask for; and how near that is to the floor.

    python -m benchmarks.evaluator --dtype bfloat16
    python -m benchmarks.evaluator --dtype float32

The floor is the time that the blocks and heads which were run would take at the rate of these shapes, measured in the
same run with all cores busy: what is above it is ours to save. The usual loop runs greedy in full; of the other
batches it runs a sample of plans, taken before and after ours, and is scaled to all of them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from benchmarks.common import Opened, loss_of, measure, open_model, report, side_by_side
from benchmarks.usual import usual_losses
from searcher.candidate import Heads
from searcher.evaluator import Evaluator
from searcher.measurement import Measurements
from searcher.plan import Action, Granularity, PrunePlan, all_units
from searcher.trie import layer_forwards, path_of

SAMPLE = 6
Score = Callable[[Sequence[PrunePlan]], Sequence[float]]


@dataclass
class Timed:
    """What a batch cost."""

    plans: int
    trie: float
    seconds: float
    run: float
    heads: int


def greedy(blocks: int, granularity: Granularity, removals: int, score: Score) -> PrunePlan:
    """The usual greedy search; every round is one batch."""
    plan = PrunePlan()
    for _ in range(removals):
        gone = plan.units(granularity)
        candidates = [plan.remove(unit) for unit in all_units(blocks, granularity) if unit not in gone]
        losses = score(candidates)
        plan = min(zip(losses, candidates, strict=True))[1]
    return plan


def batches(blocks: int, granularity: Granularity) -> Iterator[tuple[str, list[PrunePlan]]]:
    """What searches ask for in one go."""
    units, rng = all_units(blocks, granularity), np.random.default_rng(0)
    size = 8 if granularity is Granularity.BLOCK else 16
    yield "leave one out", [PrunePlan.of([unit]) for unit in units]
    yield (
        "16 Shapley chains",
        [
            PrunePlan.of(units[i] for i in chain[:n])
            for chain in (rng.permutation(len(units)) for _ in range(16))
            for n in range(1, size + 1)
        ],
    )
    if granularity is Granularity.BLOCK:
        yield "all pairs", [PrunePlan.of(pair) for pair in combinations(units, 2)]
    parent = [units[i] for i in sorted(rng.choice(len(units), size, replace=False))]
    yield "evolutionary generation of 32", [_mutated(parent, units, rng) for _ in range(32)]
    outside = [unit for unit in units if unit not in parent]
    swaps = [PrunePlan.of({*parent, new} - {old}) for old in parent for new in outside]
    yield "1-swap neighbourhood", swaps if granularity is Granularity.BLOCK else swaps[:: len(swaps) // 192]


def _mutated(parent: Sequence[Any], units: Sequence[Any], rng: np.random.Generator) -> PrunePlan:
    """One or two units put back, as many others removed."""
    swaps = int(rng.integers(1, 3))
    removed = set(parent) - {parent[i] for i in rng.choice(len(parent), swaps, replace=False)}
    outside = [unit for unit in units if unit not in parent]
    return PrunePlan.of(removed | {outside[i] for i in rng.choice(len(outside), swaps, replace=False)})


class Ours:
    """Measures with a crew, and counts."""

    def __init__(self, opened: Opened) -> None:
        self._crew, self._weight, self._windows = opened.crew(), opened.prices.weight, len(opened.ids)
        self._known = Measurements(self._crew.layout)
        measure(self._crew, [PrunePlan()], self._known)  # makes the threads' evaluators
        self.timed = Timed(0, 0.0, 0.0, 0.0, 0)

    def score(self, plans: Sequence[PrunePlan]) -> list[float]:
        """The mean loss of each plan."""
        new = [plan for plan in dict.fromkeys(plans) if not self._known.complete("search", plan)]
        paths = [path_of(plan.actions(self._crew.evaluator.replay.num_blocks)) for plan in new]
        started = time.perf_counter()
        run = measure(self._crew, plans, self._known)
        self.timed.seconds += time.perf_counter() - started
        self.timed.plans += len(new)
        self.timed.trie += layer_forwards(paths, self._weight)
        self.timed.run += run / self._windows
        self.timed.heads += len(new)
        return [loss_of(self._known, plan) for plan in plans]


def rates(opened: Opened) -> tuple[float, float]:
    """Seconds of one block, and of one head with its loss, for all windows with all cores busy."""
    crew = opened.warm_crew()
    group = crew.groups["search"][0]
    ids = group.ids.to(opened.loaded.device)

    def block(evaluator: Evaluator) -> None:
        hidden = evaluator.replay.embed(ids)
        for number in range(evaluator.replay.num_blocks):
            hidden = evaluator.replay.run_block(hidden, number, Action.KEEP)

    def head(evaluator: Evaluator) -> None:
        Heads(evaluator.replay, ids, [evaluator.replay.embed(ids)], (1,)).losses(0)

    parts = len(opened.ids) / len(ids) / len(crew._evaluators)
    blocks = side_by_side(crew._evaluators, block, 4) / opened.replay.num_blocks
    return blocks * parts, side_by_side(crew._evaluators, head, 8) * parts


def usual_seconds(opened: Opened, plans: Sequence[PrunePlan]) -> float:
    """Of one plan, on average over these."""
    started = time.perf_counter()
    for plan in plans:
        usual_losses(opened.loaded.model, opened.ids, plan)
    return (time.perf_counter() - started) / len(plans)


def sampled(plans: Sequence[PrunePlan]) -> list[PrunePlan]:
    """Some of them, evenly spread."""
    return list(plans[:: max(1, len(plans) // SAMPLE)])[:SAMPLE]


def row(name: str, granularity: Granularity, timed: Timed, usual: float, rate: tuple[float, float]) -> dict[str, Any]:
    """A line of the table."""
    floor = timed.run * rate[0] + timed.heads * rate[1]
    return {
        "batch": name,
        "units": str(granularity),
        "plans": timed.plans,
        "layer-forwards as a trie": timed.trie,
        "run": timed.run,
        "usual s": usual,
        "ours s": timed.seconds,
        "faster": usual / timed.seconds,
        "of floor": floor / timed.seconds,
        "of floor without kept states": (timed.trie * rate[0] + timed.heads * rate[1]) / timed.seconds,
        "peak GiB": psutil.Process().memory_info().rss / 2**30,
    }


def greedy_rows(opened: Opened, granularity: Granularity, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Greedy both ways, in full, to the end: the same plan and losses."""
    blocks = opened.replay.num_blocks

    def usual(plans: Sequence[PrunePlan]) -> list[float]:
        return [usual_losses(opened.loaded.model, opened.ids, plan).mean().item() for plan in plans]

    for size in sizes:
        before = rates(opened)
        ours = Ours(opened)
        found = greedy(blocks, granularity, size, ours.score)
        after = rates(opened)
        started = time.perf_counter()
        expected = greedy(blocks, granularity, size, usual)
        seconds = time.perf_counter() - started
        line = row(f"greedy {size}", granularity, ours.timed, seconds, _between(before, after))
        loss = (ours.score([found])[0], usual([found])[0])
        print(f"greedy {size}: ours {found} {loss[0]:.5f}, usual {expected} (ours there: {loss[1]:.5f})")
        yield line | {"same plan": str(found == expected), "loss differs by": abs(loss[0] - loss[1])}


def _between(before: tuple[float, float], after: tuple[float, float]) -> tuple[float, float]:
    return (before[0] + after[0]) / 2, (before[1] + after[1]) / 2


def batch_rows(opened: Opened, granularity: Granularity, only: str) -> Iterator[dict[str, Any]]:
    """Each batch once, the usual loop on a sample of it."""
    for name, plans in batches(opened.replay.num_blocks, granularity):
        if only not in name:
            continue
        plans = list(dict.fromkeys(plans))
        usual, before = usual_seconds(opened, sampled(plans)), rates(opened)
        ours = Ours(opened)
        ours.score(plans)
        after = rates(opened)
        usual = (usual + usual_seconds(opened, sampled(plans))) / 2
        yield row(name, granularity, ours.timed, usual * len(plans), _between(before, after)) | {
            "same plan": "",
            "loss differs by": float("nan"),
        }


def main(
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32")] = "auto",
    windows: int = 8,
    window_tokens: int = 128,
    granularity: Annotated[list[Granularity] | None, typer.Option(help="block, sublayer; default both")] = None,
    only: Annotated[str, typer.Option(help="only batches whose name holds this")] = "",
    device: str = "auto",
) -> None:
    """Print the table and write it."""
    rows: list[dict[str, Any]] = []
    for units in granularity or [Granularity.BLOCK, Granularity.SUBLAYER]:
        opened = open_model(dtype, windows, window_tokens, units, device=device)
        sizes = [size for size in (4, 8) if only in f"greedy {size}" and units is Granularity.BLOCK]
        rows += greedy_rows(opened, units, sizes)
        rows += batch_rows(opened, units, only)
    name = str(opened.loaded.dtype).removeprefix("torch.")
    part = [*(str(one) for one in granularity or []), *only.split()]
    report(
        "-".join(["evaluator", opened.loaded.device.type, name, *part]),
        f"The usual loop against searcher: {opened.loaded.name}, {name}, {windows} windows of {window_tokens} tokens",
        rows,
    )


if __name__ == "__main__":
    typer.run(main)
