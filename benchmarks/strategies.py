"""All strategies at equal cost: which finds the better plan?"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

import searcher
from benchmarks.common import machine, write_figures
from benchmarks.documents import DOCS, write_measured
from benchmarks.setting import Setting, command, start
from benchmarks.steps import part_of
from results.intervals import interval
from results.run import Run
from searcher.contracts.registry import BUILT_IN

DEFAULTS = Setting()
ALLOWANCE = 1.5
"""What every other strategy may cost, as a multiple of greedy."""

UNTIL_THE_LIMIT: dict[str, dict[str, Any]] = {
    "shapley": {"chains": 2000},
    "interactions": {"rounds": 2000},
    "evolutionary": {"generations": 2000},
    "oscillating": {"swing": 30},
    "local": {"repeats": 2000},
    "beam": {"width": 2},
    "gates": {"plans": 2000},
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
    "quick": Tier(("evolutionary",), 2, (0,), {"block": (2,), "sublayer": (2,)}),
}


def compare(
    tier: Tier, options: dict[str, Any], granularity: str, budget: int, data_seed: int
) -> Iterator[tuple[str, Run]]:
    """Greedy's run, then one of each other strategy at the allowance."""
    common = options | {"granularity": granularity, "budget": budget, "report_windows": 32, "data_seed": data_seed}
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


def hours(tier: Tier, options: dict[str, Any]) -> float:
    """How long all will take at most where nothing is known yet, by a small search on this machine."""
    run = searcher.run(strategy="greedy", budget=1, name="timing", quiet=True, **options)
    cost, blocks = run.outcome["cost"], run.record["num_blocks"]
    seconds = cost["seconds"] / max(cost["executed"]["total"], 1.0)
    one_plan = cost["charged"]["total"] / cost["charged"]["evaluations"]
    # greedy tries every unit that is left, once for each that it removes
    units = {"block": blocks, "sublayer": 2 * blocks}
    plans = sum(size * (units[kind] - (size - 1) / 2) for kind, sizes in tier.budgets.items() for size in sizes)
    searches = len(tier.data_seeds) * (1 + ALLOWANCE * len(tier.strategies))
    return float(plans * one_plan * searches * seconds / 3600)


def main(
    setting: Setting,
    tier: Annotated[Literal["a", "b"], typer.Option(help="b: all strategies, 2,048 tokens, three choices.")] = "a",
    runs_dir: Annotated[Path | None, typer.Option(help="Where the runs are. Default: runs/strategies-a or -b.")] = None,
) -> None:
    """Which strategy finds the better plan at equal cost?

    Greedy goes first and ends by itself; the others may spend 1.5 times what it was charged. Every search is a run of
    its own, where measurements are shared while each is charged in full: the same command goes on where it was
    interrupted, and prints the tables again when all is done.

    Takes under an hour on 2 cores with AMX: five strategies, 512 search tokens; tier b many hours.
    """
    console, begun = Console(stderr=True, soft_wrap=True), time.monotonic()
    name = "quick" if setting.quick else tier
    asked, folder = TIERS[name], runs_dir or Path("runs") / f"strategies-{name}"
    options = setting.run_options | {"windows": asked.windows, "runs_dir": str(folder)}
    most = hours(asked, options)
    console.print(f"{1 + len(asked.strategies)} strategies: {most:.1f} hours at most (measurements are shared)")
    each = [
        (g, budget, seed) for seed in asked.data_seeds for g, budgets in asked.budgets.items() for budget in budgets
    ]
    tables = []
    for done, (granularity, budget, data_seed) in enumerate(each):
        console.print(part_of(done, len(each), time.monotonic() - begun))
        runs = dict(compare(asked, options, granularity, budget, data_seed))
        rows = {strategy: row(run, runs["greedy"]) for strategy, run in runs.items()}
        tables.append({"granularity": granularity, "budget": budget, "data_seed": data_seed, "rows": rows})
        console.print(markdown(tables[-1:]), markup=False)
    minutes = (time.monotonic() - begun) / 60
    document = {"tier": name, "minutes_of_last_call": minutes, "machine": machine(), "tables": tables}
    write_figures(setting, f"strategies-{name}", document)
    if setting.of_the_project:
        write_measured(DOCS / "strategies.md", f"tier {name}", markdown(tables))
    console.print(f"Done in {minutes:.0f} minutes")
    typer.echo(markdown(tables))


cli = command(main, DEFAULTS, without=("windows",))

if __name__ == "__main__":
    start(cli)
