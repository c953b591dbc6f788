"""Ray workers against one process: seconds, efficiency, memory, start-up.

python -m benchmarks.ray
"""

import time
from itertools import combinations
from typing import Annotated, Any

import psutil
import torch
import typer

from benchmarks.common import Opened, loss_of, open_model, report
from searcher.actor import Objectives
from searcher.crew import Crew
from searcher.measurement import Measurements
from searcher.plan import Granularity, PrunePlan, all_units
from searcher.workers import WorkerCrew


def timed(crew: Crew | WorkerCrew, plans: list[PrunePlan]) -> tuple[float, list[float]]:
    """Seconds and losses."""
    known = Measurements(crew.layout)
    started = time.perf_counter()
    for line in crew.measure("search", plans, known):
        known.add(line)
    return time.perf_counter() - started, [loss_of(known, plan) for plan in plans]


def memory(processes: list[psutil.Process]) -> float:
    """GiB of these processes, memory they share counted once in all (proportional set size)."""
    return sum(process.memory_full_info().pss for process in processes) / 2**30


def with_workers(opened: Opened, workers: int, plans: list[PrunePlan]) -> tuple[dict[str, Any], list[float]]:
    """A line of the table for so many actors."""
    import ray

    crew = WorkerCrew(opened.crew(), Objectives({"loss": ("loss", {})}), workers, None, 8 << 30)
    started = time.perf_counter()
    timed(crew, plans[:2])  # a single plan would be measured in this process
    start_up = time.perf_counter() - started
    seconds, losses = timed(crew, plans[2:])
    actors = [psutil.Process(pid) for pid in ray.get([worker.process.remote() for worker in crew.workers])]
    private = max(actor.memory_full_info().uss for actor in actors) / 2**30
    line = {"workers": workers, "seconds": seconds, "start-up s": start_up, "PSS GiB": memory(actors)}
    started = time.perf_counter()
    crew.close()
    return line | {"largest private GiB": private, "shut-down s": time.perf_counter() - started}, losses


def main(
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32")] = "auto",
    windows: int = 8,
    window_tokens: int = 128,
    plans: int = 200,
    repeats: int = 2,
) -> None:
    """Print the table and write it."""
    opened = open_model(dtype, windows, window_tokens, Granularity.BLOCK)
    pairs = [PrunePlan.of(pair) for pair in combinations(all_units(opened.replay.num_blocks, Granularity.BLOCK), 2)]
    chosen = pairs[:: max(1, len(pairs) // plans)][:plans]
    rows: list[dict[str, Any]] = []
    for _ in range(repeats):
        crew = opened.crew()
        timed(crew, chosen[:2])
        local, expected = timed(crew, chosen[2:])
        rss = memory([psutil.Process()])
        rows.append({"workers": 0, "seconds": local, "start-up s": 0.0, "PSS GiB": rss})
        rows[-1] |= {"largest private GiB": rss, "shut-down s": 0.0, "against one process": 1.0, "same bits": "True"}
        for workers in (1, 2):
            line, losses = with_workers(opened, workers, chosen)
            same = str(losses == expected)
            rows.append(line | {"against one process": local / line["seconds"], "same bits": same})
    weights = sum(p.nbytes for p in opened.loaded.model.parameters())
    kind = str(opened.loaded.dtype).removeprefix("torch.")
    report(
        f"ray-{kind}",
        f"Workers: {opened.loaded.name}, {kind}, {len(chosen)} plans, {torch.get_num_threads()} cores",
        rows,
        weights_gib=weights / 2**30,
    )


if __name__ == "__main__":
    typer.run(main)
