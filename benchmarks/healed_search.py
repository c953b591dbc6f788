"""Whether a plan that was searched for with a cheap healing in every score is the better one once it is healed well."""

import json
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

import searcher
from benchmarks.common import machine, write_figures
from benchmarks.documents import DOCS, write_measured
from benchmarks.healing import plain
from benchmarks.setting import RESULTS, Setting, command, start
from benchmarks.steps import part_of
from results.intervals import gap
from searcher.contracts.registry import make
from searcher.loading.sources import TOPICS
from searcher.runs.files import whole

DEFAULTS = Setting()
BUDGET = 8


def search(heal: str | None, seed: int, setting: Setting, runs_dir: Path, data: list[str]) -> dict[str, Any]:
    """Greedy, with every plan scored healed or as it is: the plan, and what the search was charged."""
    options = {name: value for name, value in setting.run_options.items() if name != "data"}
    healing: dict[str, Any] = {} if heal is None else {"heal": heal, "heal_data": data[0]}
    run = searcher.run(
        strategy="greedy",
        budget=2 if setting.quick else BUDGET,
        data=data[0],
        data_seed=seed,
        runs_dir=str(runs_dir),
        **healing,
        **options,
    )
    return {"plan": str(run.best.plan), "cost": run.outcome["cost"]["charged"]["total"]}


def main(
    setting: Setting,
    by: Annotated[str, typer.Option(help="The healing of every score.")] = "rescale",
    then: Annotated[str, typer.Option(help="What both plans are healed by afterwards.")] = "lora:steps=40,loss=kl",
    other: Annotated[Path | None, typer.Option(help="Text of another kind, on which plans are judged too.")] = None,
    seeds: Annotated[int, typer.Option(help="Data seeds: which search windows there are.")] = 3,
    report_windows: Annotated[int, typer.Option(help="Over all texts.")] = 64,
    heal_windows: Annotated[int, typer.Option(help="To heal on, a fifth of them held out.")] = 96,
    runs_dir: Annotated[Path, typer.Option(help="Where runs and repairs are kept.")] = Path("runs"),
    kept: Annotated[Path, typer.Option(help="Where cells are kept.")] = RESULTS / "healed-search-kept.json",
) -> None:
    """Greedy with `rescale` in every score against greedy alone, both plans healed by distillation afterwards.

    By data seed the two plans, what their searches were charged, and how far the first is from the second on the report
    windows of each text, unhealed and healed, with an interval over documents. It goes on where it was stopped.

    Takes half an hour on 2 cores with AMX.
    """
    console, begun = Console(stderr=True, soft_wrap=True), time.monotonic()
    data = [setting.data or TOPICS, *([str(other)] if other else [])]
    cells: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    options = {name: value for name, value in setting.run_options.items() if name not in ("data", "windows")}
    options |= {"data": data, "heal_data": data[0], "report_windows": report_windows}
    options |= {"heal_windows": 12 if setting.quick else heal_windows}
    for seed in range(seeds):
        console.print(part_of(seed, seeds, time.monotonic() - begun))
        for name, heal in (("alone", None), (by, by)):
            if f"{name}/{seed}" in cells:
                continue
            found = search(heal, seed, setting, runs_dir, data)
            healed = searcher.heal(plan=found["plan"], heal=then, runs_dir=str(runs_dir), **options)
            places = np.array(healed.texts or [0] * len(healed.documents))
            cells[f"{name}/{seed}"] = {
                **found,
                "texts": places.tolist(),
                "documents": list(healed.documents),
                "before": plain(healed.before)["perplexity"],
                "after": plain(healed.healed[0].rows)["perplexity"],
            }
            with whole(kept) as temporary:
                temporary.write_text(json.dumps(cells), encoding="utf-8")
    rows = [row for seed in range(seeds) for row in _rows(cells, by, seed, data)]
    text = "\n".join(_lines(rows))
    typer.echo(text)
    title = f"Greedy with {by} in every score against greedy alone, both plans healed by {then}"
    figures = {"title": title, "date": str(date.today()), "machine": machine(), "rows": rows}
    write_figures(setting, "healed-search", figures)
    if setting.of_the_project and other is not None:
        write_measured(DOCS / "healing.md", "healed search", text)


def _rows(cells: dict[str, Any], by: str, seed: int, data: list[str]) -> list[dict[str, Any]]:
    own, alone = cells[f"{by}/{seed}"], cells[f"alone/{seed}"]
    rows = []
    for number, name in enumerate(data):
        places = np.flatnonzero(np.array(own["texts"]) == number)
        documents = [own["documents"][place] for place in places]
        row = {"seed": seed, "greedy alone": alone["plan"], f"with {by}": own["plan"]}
        row["cost to that alone"] = f"{own['cost'] / alone['cost']:.3f}"
        row["text"] = Path(name).name
        for when in ("before", "after"):
            first, second = (np.array(one[when])[places] for one in (own, alone))
            found = gap(make("objective", "perplexity", {}), first, second, documents)
            ends = "" if found.low is None or found.high is None else f" ({found.low:+.1%} to {found.high:+.1%})"
            row["unhealed" if when == "before" else "healed"] = f"{found.value:+.1%}{ends}"
        rows.append(row)
    return rows


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(row[name]) for name in head) + " |" for row in rows]


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)
