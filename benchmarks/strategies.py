"""All strategies at equal cost: which finds the better plan of the embedded model?

    python -m benchmarks.strategies             # tier a: five strategies, 512 search tokens, under an hour on 2 cores
    python -m benchmarks.strategies --tier b    # all of them, 2,048 tokens, three choices of windows: many hours

Greedy goes first and ends by itself; the others may spend 1.5 times what it was charged. Every search is a run of its
own in `runs/strategies-a`, where measurements are shared while each is charged in full: the same command goes on where
it was interrupted, and prints the tables again when all is done.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

import searcher
from benchmarks.common import RESULTS, machine
from benchmarks.documents import DOCS, write_measured
from results.intervals import interval
from results.run import Run
from searcher.registry import BUILT_IN

ALLOWANCE = 1.5
"""What every other strategy may cost, as a multiple of greedy."""

UNTIL_THE_LIMIT: dict[str, dict[str, Any]] = {
    "shapley": {"chains": 2000},
    "interactions": {"rounds": 2000},
    "evolutionary": {"generations": 2000},
    "oscillating": {"swing": 30},
    "local": {"repeats": 2000},
    "beam": {"width": 2},
    "optuna": {"trials": 100_000},
    "random": {"samples": 100_000},
}
"""Options with which a strategy does not end before the limit, or fits it."""
NOT_COMPARED = {"exhaustive"}
"""Its space would have to be narrowed; its certificates are made by hand, where they can be afforded."""


@dataclass(frozen=True)
class Tier:
    """What is compared.

    Attributes:
        strategies: besides greedy.
        windows: search windows of 128 tokens.
        data_seeds: choices of windows.
        budgets: by granularity.
    """

    strategies: tuple[str, ...]
    windows: int
    data_seeds: tuple[int, ...]
    budgets: dict[str, tuple[int, ...]]


BUDGETS: dict[str, tuple[int, ...]] = {"block": (4, 8, 12), "sublayer": (8, 16, 24)}
TIERS = {
    "a": Tier(("shapley", "interactions", "evolutionary", "portfolio"), 4, (0,), BUDGETS),
    "b": Tier(tuple(sorted({*BUILT_IN["strategy"]} - {"greedy"} - NOT_COMPARED)), 16, (0, 1, 2), BUDGETS),
}


def compare(tier: Tier, folder: Path, granularity: str, budget: int, data_seed: int) -> Iterator[tuple[str, Run]]:
    """Greedy's run, then one of each other strategy at the allowance."""
    common: dict[str, Any] = {
        "granularity": granularity,
        "budget": budget,
        "windows": tier.windows,
        "window_tokens": 128,
        "report_windows": 32,
        "data_seed": data_seed,
        "runs_dir": str(folder),
    }
    greedy = searcher.run(strategy="greedy", name=f"greedy-{granularity}-{budget}-{data_seed}", **common)
    yield "greedy", greedy
    limit = ALLOWANCE * greedy.outcome["cost"]["charged"]["total"]
    for strategy in tier.strategies:
        name = f"{strategy}-{granularity}-{budget}-{data_seed}"
        args = UNTIL_THE_LIMIT.get(strategy, {})
        yield strategy, searcher.run(strategy=strategy, strategy_args=args, max_cost=limit, name=name, **common)


def row(run: Run, greedy: Run) -> dict[str, Any]:
    """What the table says of a run; the report gap is the ratio of the two perplexities on the same windows."""
    objective = run.objectives["perplexity"]
    report, search = run.best.report["perplexity"], run.best.search["perplexity"]
    ours, theirs = (r.measurements.rows("report", r.best.plan, "perplexity") for r in (run, greedy))
    cost, base = (r.outcome["cost"]["charged"] for r in (run, greedy))
    return {
        "plan": str(run.best.plan),
        "search": search,
        "search_gap": search / greedy.best.search["perplexity"] - 1,
        "report": [report.value, report.low, report.high],
        "report_gap": [
            objective.value(ours - theirs) - 1,
            *(_minus_one(v) for v in interval(objective, ours - theirs)),
        ],
        "cost": cost["total"] / base["total"],
        "plans": cost["evaluations"],
        "notes": run.outcome["notes"].get("summary", []),
    }


def _minus_one(value: float | None) -> float | None:
    return None if value is None else value - 1


def markdown(tables: list[dict[str, Any]]) -> str:
    """The tables as they stand in the guide."""
    lines = []
    for table in tables:
        lines += [
            "",
            f"**{table['granularity']}, {table['budget']} removed, windows of data seed {table['data_seed']}**",
            "",
        ]
        lines += [
            "| strategy | plan | search perplexity | to greedy | report perplexity | to greedy (95% interval) | cost |"
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        for strategy, found in table["rows"].items():
            gap, low, high = found["report_gap"]
            unsure = "" if low is None or strategy == "greedy" else f" ({low:+.1%} to {high:+.1%})"
            value, below, above = found["report"]
            cells = [
                strategy,
                f"`{found['plan']}`",
                f"{found['search']:.2f}",
                f"{found['search_gap']:+.1%}",
                f"{value:.2f} ({below:.1f} to {above:.1f})",
                f"{gap:+.1%}{unsure}",
                f"{found['cost']:.2f}x",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).strip()


def say_how_long(tier: Tier, folder: Path, console: Console) -> None:
    """Time a small search on this machine, and say how many hours all will take at most, before anything else."""
    options: dict[str, Any] = {"window_tokens": 128, "windows": tier.windows, "runs_dir": str(folder), "quiet": True}
    cost = searcher.run(strategy="greedy", budget=1, name="timing", **options).outcome["cost"]
    seconds = cost["seconds"] / max(cost["executed"]["total"], 1.0)
    one_plan = cost["charged"]["total"] / cost["charged"]["evaluations"]
    # greedy tries every unit that is left, once for each that it removes
    units = {"block": 30, "sublayer": 60}
    plans = sum(size * (units[kind] - (size - 1) / 2) for kind, sizes in tier.budgets.items() for size in sizes)
    searches = len(tier.data_seeds) * (1 + ALLOWANCE * len(tier.strategies))
    hours = plans * one_plan * searches * seconds / 3600
    console.print(f"{1 + len(tier.strategies)} strategies: {hours:.1f} hours at most (measurements are shared)")


def main(tier: Annotated[Literal["a", "b"], typer.Option(help="Which comparison.")] = "a") -> None:
    """Compare strategies at equal cost, on the embedded model and text."""
    console, begun, plan = Console(stderr=True, soft_wrap=True), time.monotonic(), TIERS[tier]
    folder = Path("runs") / f"strategies-{tier}"
    say_how_long(plan, folder, console)
    tables = []
    for data_seed in plan.data_seeds:
        for granularity, budgets in plan.budgets.items():
            for budget in budgets:
                runs = dict(compare(plan, folder, granularity, budget, data_seed))
                rows = {strategy: row(run, runs["greedy"]) for strategy, run in runs.items()}
                tables.append({"granularity": granularity, "budget": budget, "data_seed": data_seed, "rows": rows})
                console.print(markdown(tables[-1:]))
    text = markdown(tables)
    minutes = (time.monotonic() - begun) / 60
    document = {"tier": tier, "minutes_of_last_call": minutes, "machine": machine(), "tables": tables}
    (RESULTS / f"strategies-{tier}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    write_measured(DOCS / "strategies.md", f"tier {tier}", text)
    console.print(f"Done in {minutes:.0f} minutes")
    print(text)


if __name__ == "__main__":
    typer.run(main)
