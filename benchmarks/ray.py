"""Ray workers against one process."""

import time
from itertools import combinations
from typing import Annotated, Any

import psutil
import torch
import typer

from benchmarks.common import Opened, loss_of, measure, open_model, report
from benchmarks.evaluator import spread
from benchmarks.setting import Setting, command, start
from benchmarks.steps import Steps
from searcher.architecture.devices import computes_on_cpu, seen
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.evaluation.ray_executor import AnyExecutor, RayExecutor
from searcher.evaluation.ray_session import import_ray
from searcher.evaluation.ray_worker import Objectives
from searcher.runs.measurement import Measurements

DEFAULTS = Setting()
MEMORY = 8 << 30
"""Bytes that all workers may take together."""


def timed(executor: AnyExecutor, plans: list[PrunePlan], steps: Steps) -> tuple[float, list[float]]:
    """Seconds and losses."""
    known = Measurements(executor.layout)
    started = time.perf_counter()
    measure(executor, plans, known, steps.done)
    return time.perf_counter() - started, [loss_of(known, plan) for plan in plans]


def memory(processes: list[psutil.Process]) -> float:
    """GiB of these processes, memory they share counted once in all (proportional set size)."""
    return sum(process.memory_full_info().pss for process in processes) / 2**30


def in_process(opened: Opened, plans: list[PrunePlan], steps: Steps) -> tuple[dict[str, Any], list[float]]:
    """A line of the table without workers, and the losses of the plans."""
    executor = opened.executor()
    timed(executor, plans[:2], steps)
    seconds, losses = timed(executor, plans[2:], steps)
    size = memory([psutil.Process()])
    line = {"workers": 0, "seconds": seconds, "start-up s": 0.0, "PSS GiB": size, "largest private GiB": size}
    return line | {"shut-down s": 0.0}, losses


def with_workers(
    opened: Opened, workers: int, plans: list[PrunePlan], steps: Steps
) -> tuple[dict[str, Any], list[float]]:
    """A line of the table for so many actors, and the losses of the plans."""
    ray = import_ray()
    executor = RayExecutor(opened.executor(), Objectives({"loss": ("loss", {})}), workers, None, MEMORY)
    started = time.perf_counter()
    timed(executor, plans[:2], steps)  # a single plan would be measured in this process
    start_up = time.perf_counter() - started
    seconds, losses = timed(executor, plans[2:], steps)
    actors = [psutil.Process(pid) for pid in ray.get([worker.process.remote() for worker in executor.workers])]
    private = max(actor.memory_full_info().uss for actor in actors) / 2**30
    line = {"workers": workers, "seconds": seconds, "start-up s": start_up, "PSS GiB": memory(actors)}
    started = time.perf_counter()
    executor.close()
    return line | {"largest private GiB": private, "shut-down s": time.perf_counter() - started}, losses


def main(
    setting: Setting,
    plans: Annotated[int, typer.Option(help="Pairs of blocks to measure.", min=4)] = 200,
    repeats: Annotated[int, typer.Option(help="How often all is measured.", min=1)] = 1,
) -> None:
    """What 0, 1 and 2 Ray workers on this machine take: seconds, memory, start-up; and whether they give the same bits.

    Takes 2 minutes on 2 cores with AMX.
    """
    rows: list[dict[str, Any]] = []
    with Steps("ray") as steps:
        opened = open_model(setting)
        units = all_units(opened.replay.num_blocks, Granularity.BLOCK)
        chosen = spread([PrunePlan.of(pair) for pair in combinations(units, 2)], 8 if setting.quick else plans)
        there_are = torch.get_num_threads() if computes_on_cpu(opened.loaded.device) else seen()[1]
        counts = range(1, min(2, there_are) + 1)
        steps.expect(repeats * (1 + len(counts)) * len(chosen))
        for _ in range(repeats):
            steps.at("one process")
            alone, expected = in_process(opened, chosen, steps)
            rows.append(alone | {"against one process": 1.0, "same bits": "True"})
            for workers in counts:
                steps.at(f"{workers} worker{'s' * (workers > 1)}")
                line, losses = with_workers(opened, workers, chosen, steps)
                faster = alone["seconds"] / line["seconds"]
                rows.append(line | {"against one process": faster, "same bits": str(losses == expected)})
    weights = sum(p.nbytes for p in opened.loaded.model.parameters())
    title = f"Workers: {opened.described}, {len(chosen)} plans, {torch.get_num_threads()} cores"
    report(setting, f"ray-{opened.kind}", title, rows, weights_gib=weights / 2**30)


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)
