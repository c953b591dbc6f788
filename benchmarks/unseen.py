"""Which search finds plans that hold on text nobody has seen, at equal cost and over several choices of windows?"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

import searcher
from benchmarks.common import machine, measure, opened, report
from benchmarks.setting import Setting, command, start
from benchmarks.steps import part_of
from objectives.loss import Perplexity
from results.run import Run
from results.two_way import procedure_gap
from searcher.contracts.plan import DENSE, Granularity, PrunePlan
from searcher.errors import UsageError
from searcher.loading.model import load_model
from searcher.loading.text import load_text
from searcher.loading.windows import cut_windows
from searcher.runs.files import whole
from searcher.runs.measurement import Measurements

DEFAULTS = Setting()
ALLOWANCE = 1.5
"""What every search may cost, as a multiple of exact greedy on `BASE` windows with data seed 0."""
SLACK = 12.0
"""The same to try it, where so little is removed that greedy costs next to nothing."""
BASE = 4
REPORT = 128
"""Report windows that plans are judged on, in float32."""
RACED = (8, 10, 12, 16, 24, 32)
"""Windows that greedy races on: the most with which it ends inside the limit, going by what the first costs."""
UNLIMITED = 100_000
METHODS: dict[str, dict[str, Any]] = {
    "bayesian": {"strategy": "bayesian"},
    "greedy, raced": {"strategy": "greedy", "racing": 0.05},
    "portfolio": {"strategy": "portfolio", "windows": BASE},
    "evopress": {
        "strategy": "evopress",
        "strategy_args": {"generations": UNLIMITED, "offspring": 16, "last": 8, "beginnings": 32},
        "search_by": "kl",
    },
}
"""By name, the options of each; those of evopress are the published ones, scaled to what fits the cost."""
OURS = "bayesian"


@dataclass(frozen=True)
class Task:
    """What is removed.

    Attributes:
        options: for `searcher.run`.
    """

    options: Mapping[str, Any]

    @property
    def granularity(self) -> Granularity:
        """Which units are removed."""
        return Granularity(self.options["granularity"])


TASKS = {
    "8 blocks": Task({"granularity": "block", "budget": 8}),
    "15 FFNs": Task({"granularity": "ffn", "budget": 15}),
    "8 attentions and 8 FFNs": Task({"granularity": "sublayer", "budget": 16, "max_attention": 8, "max_ffn": 8}),
    "30 sublayers": Task({"granularity": "sublayer", "budget": 30}),
}
QUICK = {"2 blocks": Task({"granularity": "block", "budget": 2})}

Cells = dict[str, dict[str, Any]]
"""What was found, by task and seed: limit, machine, and by method the plan with its losses by report window."""


class Judge:
    """Measures plans on the report split, in float32.

    Args:
        setting: names model and text.
        windows: of the report split.
    """

    def __init__(self, setting: Setting, windows: int) -> None:
        loaded = load_model(setting.model, dtype="float32", device=setting.device)
        text = load_text(setting.data).report
        cut = cut_windows(
            text, loaded.tokenizer, tokens=setting.window_tokens, count=windows, split="report", seed=None
        )
        self.documents, self.opened = cut.documents, opened(loaded, cut.ids, Granularity.BLOCK)

    def losses(self, plans: Sequence[PrunePlan], granularity: Granularity) -> list[list[float]]:
        """The loss of each plan by window, in nats per token."""
        here = self.opened.at(granularity)
        executor = here.executor()
        known = Measurements(executor.layout)
        measure(executor, plans, known)
        return [known.rows("search", plan, "loss").round(6).tolist() for plan in plans]


def searched(task: Task, seed: int, limit: float, common: Mapping[str, Any]) -> Iterator[tuple[str, Run]]:
    """Each method's run."""
    for method, options in METHODS.items():
        every = {**common, **task.options, "data_seed": seed, "max_cost": limit, **options}
        name = f"{method}-{task.options['granularity']}-{task.options['budget']}-{seed}".replace(", ", "-")
        if options.get("racing"):
            yield method, _raced(every, name)
        else:
            yield method, searcher.run(name=name, **every)


def _raced(options: Mapping[str, Any], name: str) -> Run:
    """Greedy that races on as many windows as it can afford; without a race where that fits none."""

    def on(windows: int) -> Run:
        return searcher.run(name=f"{name}-{windows}", **{**options, "windows": windows})

    least = on(RACED[0])
    if least.outcome["stopped"] is not None:
        exact = {**options, "racing": None, "windows": round(BASE * ALLOWANCE)}
        return searcher.run(name=f"{name}-exact", **exact)
    by_window = least.outcome["cost"]["charged"]["total"] / RACED[0]
    affordable = max(windows for windows in RACED if windows * by_window <= options["max_cost"])
    more = least if affordable == RACED[0] else on(affordable)
    return least if more.outcome["stopped"] is not None else more


def cost_of_greedy(task: Task, common: Mapping[str, Any]) -> float:
    """What exact greedy is charged with data seed 0."""
    name = f"greedy-{task.options['granularity']}-{task.options['budget']}"
    run = searcher.run(strategy="greedy", name=name, **{**common, **task.options, "windows": BASE})
    return float(run.outcome["cost"]["charged"]["total"])


def cell(task: Task, seed: int, limit: float, common: Mapping[str, Any], judge: Judge) -> dict[str, Any]:
    """What all methods have found with one choice of windows, judged."""
    begun = time.monotonic()
    runs = dict(searched(task, seed, limit, common))
    plans = {method: run.best.plan for method, run in runs.items()}
    distinct = list(dict.fromkeys([DENSE, *plans.values()]))
    losses = dict(zip(distinct, judge.losses(distinct, task.granularity), strict=True))
    found = {
        method: {
            "plan": str(plan),
            "windows": runs[method].record["identity"]["windows"],
            "cost": runs[method].outcome["cost"]["charged"]["total"],
            "losses": losses[plan],
        }
        for method, plan in plans.items()
    }
    minutes = (time.monotonic() - begun) / 60
    return {"limit": limit, "machine": machine(), "minutes": minutes, "dense": losses[DENSE], "methods": found}


def rows(task: str, cells: Sequence[Mapping[str, Any]], documents: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row a method: perplexities by seed, and the gap to ours with its interval over seeds and documents."""
    objective = Perplexity()

    def losses(method: str) -> Any:
        return np.array([one["methods"][method]["losses"] for one in cells])

    ours = losses(OURS)
    for method in METHODS:
        gap = procedure_gap(objective, losses(method), ours, documents)
        interval = "" if gap.low is None or gap.high is None else f"{gap.low:+.1%} to {gap.high:+.1%}"
        yield {
            "task": task,
            "method": method,
            "report perplexity by seed": ", ".join(f"{np.exp(mean):.1f}" for mean in losses(method).mean(axis=1)),
            "to bayesian": "" if method == OURS else f"{gap.value:+.1%}",
            "95% interval": "" if method == OURS else interval,
            "cost": float(np.mean([one["methods"][method]["cost"] / one["limit"] for one in cells])),
        }


def main(
    setting: Setting,
    seeds: Annotated[int, typer.Option(help="Choices of search windows.", min=1)] = 6,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    kept: Annotated[Path, typer.Option(help="Where all that was found is kept, task by task and seed by seed.")] = Path(
        "benchmarks/results/unseen-kept.json"
    ),
    runs_dir: Annotated[Path, typer.Option(help="Where the runs are.")] = Path("runs/unseen"),
) -> None:
    """Which search finds plans that hold on unseen text, at equal cost?

    Every method may spend what exact greedy costs on 6 windows of 128 tokens, preparation and final included, and is
    judged on 128 windows of the report split in float32. What was found is kept after every choice of windows: the
    same command goes on where it was, on another day and machine too; all methods of one choice run on one machine.

    Takes 4 minutes a seed for blocks, 6 for FFNs, 15 for each of the tasks with sublayers, on 2 cores with AMX.
    """
    tasks = QUICK if setting.quick else TASKS
    if unknown := set(task or ()) - set(tasks):
        raise UsageError(f"There is no task {', '.join(sorted(unknown))}", f"Take of {', '.join(tasks)}")
    wanted = {name: one for name, one in tasks.items() if not task or name in task}
    console, begun = Console(stderr=True, soft_wrap=True), time.monotonic()
    kept = runs_dir / kept.name if setting.quick else kept
    found = _read(kept, setting)
    common = setting.run_options | {"runs_dir": str(runs_dir), "quiet": True}
    del common["windows"]
    judge = Judge(setting, 32 if setting.quick else REPORT)
    missing = [(name, seed) for seed in range(seeds) for name in wanted if f"{name}/{seed}" not in found]
    for done, (name, seed) in enumerate(missing):
        console.print(f"{name}, seed {seed}: {part_of(done, len(missing), time.monotonic() - begun)}", markup=False)
        limit = next((one["limit"] for key, one in found.items() if key.startswith(f"{name}/")), None)
        limit = limit or (SLACK if setting.quick else ALLOWANCE) * cost_of_greedy(wanted[name], common)
        found[f"{name}/{seed}"] = cell(wanted[name], seed, limit, common, judge)
        _write(kept, setting, found)
    table = [
        row
        for name in wanted
        for row in rows(name, [found[f"{name}/{seed}"] for seed in range(seeds)], judge.documents)
    ]
    choices = "1 choice of search windows" if seeds == 1 else f"{seeds} choices of search windows"
    of = f"{judge.opened.loaded.name}, {len(judge.documents)} windows of {len(set(judge.documents))} documents"
    report(setting, "unseen", f"Plans on unseen text: {of}, {choices}", table)


def _read(path: Path, setting: Setting) -> Cells:
    """What was found before with the same model and text."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["of"] != _of(setting):
        raise UsageError(f"{path} is of {content['of']}, not of {_of(setting)}", "Keep this elsewhere, with --kept")
    cells: Cells = content["cells"]
    return cells


def _write(path: Path, setting: Setting, found: Cells) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_text(json.dumps({"of": _of(setting), "cells": found}) + "\n", encoding="utf-8")


def _of(setting: Setting) -> dict[str, Any]:
    """What the figures depend on: the text by what it says, wherever it lies."""
    text = load_text(setting.data)
    return {
        "model": setting.model and Path(setting.model).name,
        "text": text.fingerprint,
        "dtype": setting.dtype,
        "window_tokens": setting.window_tokens,
    }


cli = command(main, DEFAULTS, without=("windows",))

if __name__ == "__main__":
    start(cli)
