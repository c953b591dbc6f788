"""Racing against exact greedy and the usual loop, over several choices of search windows."""

import tempfile
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import typer

import searcher
from benchmarks.common import Opened, open_model, report
from benchmarks.evaluator import SAMPLE, greedy_plans, removals, spread
from benchmarks.setting import Setting, command, start
from benchmarks.steps import Steps
from benchmarks.usual import usual_loop
from results.run import Run
from searcher.contracts.plan import PrunePlan

DEFAULTS = Setting(windows=32, window_tokens=64)


def search(setting: Setting, size: int, seed: int, racing: float | None) -> Run:
    """Greedy as `searcher run` does it, sharing measurements with no other run."""
    with tempfile.TemporaryDirectory() as folder:
        options = setting.run_options | {"report_windows": 32, "data_seed": seed, "racing": racing, "runs_dir": folder}
        return searcher.run(strategy="greedy", budget=size, name="search", quiet=True, **options)


def compared(opened: Opened, setting: Setting, size: int, seed: int, alpha: float, steps: Steps) -> dict[str, Any]:
    """A line of the table."""
    blocks = opened.replay.num_blocks
    sample = _as_long(blocks, size)
    steps.at(f"windows of data seed {seed}, exact")
    before, _ = usual_loop(opened, sample)
    exact = search(setting, size, seed, None)
    steps.done(2)
    steps.at(f"windows of data seed {seed}, raced")
    raced = search(setting, size, seed, alpha)
    after, _ = usual_loop(opened, sample)
    steps.done(1)
    usual = (before + after) / 2 * greedy_plans(blocks, size)
    perplexities = [run.best.search["perplexity"] for run in (exact, raced)]
    seconds = [run.outcome["cost"]["seconds"] for run in (exact, raced)]
    return {
        "data seed": seed,
        "exact greedy": str(exact.best.plan),
        "raced": str(raced.best.plan),
        "exact perplexity": perplexities[0],
        "raced perplexity": perplexities[1],
        "raced / exact": perplexities[1] / perplexities[0],
        "evaluations": raced.outcome["cost"]["charged"]["evaluations"],
        "of": exact.outcome["cost"]["charged"]["evaluations"],
        "usual s": usual,
        "exact s": seconds[0],
        "raced s": seconds[1],
        "exact faster": usual / seconds[0],
        "raced faster": usual / seconds[1],
    }


def _as_long(blocks: int, size: int) -> Sequence[PrunePlan]:
    """Plans that leave as many blocks as those of greedy do on average."""
    half = (size + 1) // 2
    return spread([PrunePlan.parse(f"{i}-{i + half - 1}") for i in range(blocks - half + 1)], SAMPLE)


def main(
    setting: Setting,
    alpha: Annotated[float, typer.Option(help="As --racing takes it.")] = 0.05,
    seeds: Annotated[int, typer.Option(help="Choices of windows.", min=1)] = 3,
) -> None:
    """How much faster greedy is with --racing, and what is lost by it.

    What counts is the score of the plan that is chosen, not whether it is the same plan: where candidates are close,
    the winner of a round changes with the windows. The usual loop runs a sample of plans on the same number of windows,
    before and after, and is scaled to all that greedy asks about.

    Takes about 10 minutes on 2 cores with AMX.
    """
    with Steps("racing") as steps:
        opened = open_model(setting)
        size = 2 if setting.quick else removals(opened.replay.num_blocks)
        choices = range(1 if setting.quick else seeds)
        steps.expect(3 * len(choices))
        rows = [compared(opened, setting, size, seed, alpha, steps) for seed in choices]
    report(
        setting,
        f"racing-{opened.kind}",
        f"Greedy {size}, raced at {alpha}: {opened.described}",
        rows,
        worst_ratio_of_perplexities=max(row["raced / exact"] for row in rows),
        median_times_faster_than_usual=float(np.median([row["raced faster"] for row in rows])),
        least_times_faster_than_usual=min(row["raced faster"] for row in rows),
    )


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)
