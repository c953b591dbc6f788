"""Racing against exact greedy and the usual loop, over ten choices of search windows.

    python -m benchmarks.racing

What counts is the score of the plan that is chosen, not whether it is the same plan: where candidates are close, the
winner of a round changes with the windows.
"""

import math
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common import Opened, open_model, report, windows_of
from benchmarks.evaluator import sampled, usual_seconds
from objectives.loss import Loss
from searcher.cost import Ledger, Limits, Tariff
from searcher.goals import Goals
from searcher.journal import Journal
from searcher.measurement import Measurements
from searcher.plan import Granularity, PrunePlan, all_units
from searcher.search_loop import Recorder, SearchLoop
from searcher.selection import chosen_plans
from searcher.space import Space
from searcher.strategy import Ask
from strategies.greedy import Greedy

SIZE = 8


def search(opened: Opened, racing: float | None) -> tuple[PrunePlan, float, float, float]:
    """Greedy by the search loop that a run uses: plan, loss on all windows, seconds, evaluations charged."""
    crew, blocks = opened.crew(), opened.replay.num_blocks
    tariff = Tariff(blocks, opened.prices, len(opened.ids), opened.ids.shape[1], 1.0, 0.0, 1.0, 0.0)
    ledger = Ledger(tariff, Limits())
    units = all_units(blocks, Granularity.BLOCK)
    space = Space(blocks, Granularity.BLOCK, units, (SIZE,), len(opened.ids), 0, ledger.fits, racing=racing)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        recorder = Recorder(crew, journal, Measurements(crew.layout), lambda _: None)
        recorder.measure("search", [PrunePlan()])
        loop = SearchLoop(space, recorder, ledger, Goals({"loss": Loss()}, ("loss",)))
        started = time.perf_counter()
        outcome = loop.run(Greedy())
        seconds = time.perf_counter() - started
        plan = chosen_plans(loop, outcome)[SIZE]
        return plan, float(loop.scores(Ask((plan,))).first[0]), seconds, ledger.charged.evaluations


def compared(opened: Opened, seed: int, alpha: float) -> dict[str, Any]:
    """A line of the table."""
    opened.ids = windows_of(opened.loaded, *opened.ids.shape, data_seed=seed)
    blocks = opened.replay.num_blocks
    plans = sum(blocks - removed for removed in range(SIZE))
    sample = sampled([PrunePlan.parse(f"{i}-{i + SIZE // 2}") for i in range(blocks - SIZE)])  # as long as on average
    usual = usual_seconds(opened, sample)
    exact_plan, exact, exact_seconds, _ = search(opened, None)
    raced_plan, raced, raced_seconds, evaluations = search(opened, alpha)
    usual = (usual + usual_seconds(opened, sample)) / 2 * plans
    return {
        "data seed": seed,
        "exact greedy": str(exact_plan),
        "raced": str(raced_plan),
        "exact perplexity": math.exp(exact),
        "raced perplexity": math.exp(raced),
        "raced / exact": math.exp(raced - exact),
        "evaluations": evaluations,
        "of": plans,
        "usual s": usual,
        "exact s": exact_seconds,
        "raced s": raced_seconds,
        "exact faster": usual / exact_seconds,
        "raced faster": usual / raced_seconds,
    }


def main(
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32")] = "auto",
    windows: int = 32,
    window_tokens: int = 64,
    alpha: Annotated[float, typer.Option(help="as --racing takes it")] = 0.05,
    seeds: int = 10,
) -> None:
    """Print the table and write it."""
    opened = open_model(dtype, windows, window_tokens, Granularity.BLOCK)
    rows = []
    for seed in range(seeds):
        rows.append(compared(opened, seed, alpha))
        print({name: value for name, value in rows[-1].items() if "plex" in name or "faster" in name}, flush=True)
    name = str(opened.loaded.dtype).removeprefix("torch.")
    report(
        f"racing-{name}",
        f"Greedy {SIZE}, raced at {alpha}: {opened.loaded.name}, {name}, {windows} windows of {window_tokens} tokens",
        rows,
        worst_ratio_of_perplexities=max(row["raced / exact"] for row in rows),
        median_times_faster_than_usual=float(np.median([row["raced faster"] for row in rows])),
        least_times_faster_than_usual=min(row["raced faster"] for row in rows),
    )


if __name__ == "__main__":
    typer.run(main)
