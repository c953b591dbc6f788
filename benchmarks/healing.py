"""What each healing gives, on the text it was fitted on and on text of another kind: the tables of docs/healing.md."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

import searcher
from benchmarks.documents import DOCS, write_measured
from benchmarks.setting import RESULTS, Setting, command, start
from benchmarks.steps import part_of
from results.intervals import gap, interval
from searcher.contracts.objective import Objective
from searcher.contracts.registry import make
from searcher.errors import UsageError
from searcher.healing.outcome import Healings, Rows
from searcher.loading.sources import TOPICS
from searcher.runs.files import whole
from searcher.runs.notation import plain_spec

DEFAULTS = Setting()
PLANS = {
    "greedy": "4-5,7,12-14,25-26",
    "contiguous": "11-18",
    "portfolio": "4-5,13-14,16-18,26",
    "attention": "9.attn,12.attn,13.attn,14.attn,16.attn,18.attn,20.attn,24.attn",
    "mixed": "4.attn,5.attn,7.attn,12.attn,13.attn,14.attn,17.attn,25.attn,3.ffn,6.ffn,13.ffn,15.ffn,16.ffn,18.ffn,"
    "20.ffn,26.ffn",
}
"""Plans of SmolLM2-135M: what greedy and portfolio have chosen with 8 blocks to remove, 8 blocks in a row, and two of
sublayers."""
KEPT = RESULTS / "healing-kept.json"
CLOSED = ("bias", "rescale", "rescale:choose=ratio", "linear", "linear-folded")
"""Healings in closed form, of every plan."""
NONE = "none"
"""The row of a plan as it is."""


def recipes(steps: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The healings of every plan, the one that others are compared with first; and those of the first plan alone."""
    lora = f"lora:steps={steps}"
    losses = tuple(f"{lora},loss={loss}" for loss in ("kl", "hidden", "kl+text"))
    every = (f"{lora},loss=text", *losses, *CLOSED)
    first_only = (f"full:steps={steps},loss=kl", f"layer:steps={steps}")
    return tuple(map(plain_spec, every)), tuple(map(plain_spec, first_only))


def cells_of(found: Healings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every healing with all that tables need of it: numbers by window, so that differences can be told later."""
    yield NONE, {"rows": plain(found.before), "control": plain(found.dense)}
    for one in found.healed:
        yield (
            one.spec,
            {
                "rows": plain(one.rows),
                "control": plain(one.control_rows),
                "tokens": one.plan.work.tokens,
                "layer_forwards": round(one.plan.work.layer_forwards),
                "adds": one.plan.repair.parameters,
                "dropped": one.plan.dropped,
                "failure": one.plan.failure,
            },
        )


def plain(rows: Rows) -> dict[str, list[float]]:
    """Numbers by window, to be kept."""
    return {label: [float(f"{value:.6g}") for value in values] for label, values in rows.items()}


class Kept:
    """Cells in a file, so that the benchmark goes on on another day.

    Args:
        file: where they are.
        setting: what they were measured on, which must not change.

    Raises:
        UsageError: the file is of another setting.
    """

    def __init__(self, file: Path, setting: Mapping[str, Any]) -> None:
        self._file = file
        self.content: dict[str, Any] = {"setting": dict(setting), "texts": {}, "plans": {}}
        if file.exists():
            self.content = json.loads(file.read_text(encoding="utf-8"))
            if self.content["setting"] != dict(setting):
                raise UsageError(f"{file} is of another setting: {self.content['setting']}", "Name another --kept")

    def missing(self, plan: str, healings: tuple[str, ...]) -> tuple[str, ...]:
        """Those of which there is no cell."""
        return tuple(one for one in healings if one not in self.content["plans"].get(plan, {}))

    def add(self, plan: str, found: Healings) -> None:
        """Keep all that was found for a plan."""
        places = np.array(found.texts or [0] * len(found.documents))
        names = found.text_names if found.texts else (found.text,)
        self.content["texts"] = {name: np.flatnonzero(places == n).tolist() for n, name in enumerate(names)}
        self.content["documents"] = list(found.documents)
        self.content["plans"].setdefault(plan, {}).update(cells_of(found))
        with whole(self._file) as temporary:
            temporary.write_text(json.dumps(self.content), encoding="utf-8")


def tables(content: Mapping[str, Any], base: str) -> Iterator[str]:
    """A table for each plan."""
    objectives = {"perplexity": make("objective", "perplexity", {}), "kl": make("objective", "kl", {})}
    for name, cells in content["plans"].items():
        yield f"**{name}**: {PLANS[name]}"
        yield ""
        columns = ["healing"]
        for text in content["texts"]:
            columns += [f"perplexity on {text.partition(' ')[0]}", f"to `{base}`", "KL", "dense, healed the same"]
        accurate = "accuracy" in cells[NONE]["rows"]
        columns += [*(["accuracy"] if accurate else []), "trained on", "layer-forwards", "adds"]
        yield "| " + " | ".join(columns) + " |"
        yield "|" + "---|" * len(columns)
        for healing, cell in cells.items():
            if cell.get("failure"):
                continue
            yield "| " + " | ".join(_row(content, objectives, cells, healing, base, accurate)) + " |"
        failed = [f"`{healing}`: {cell['failure']}" for healing, cell in cells.items() if cell.get("failure")]
        yield ""
        if failed:
            yield "Not healed so: " + "; ".join(failed) + "."
            yield ""


def _row(
    content: Mapping[str, Any],
    objectives: Mapping[str, Objective],
    cells: Mapping[str, Any],
    healing: str,
    base: str,
    accurate: bool,
) -> Iterator[str]:
    cell = cells[healing]
    yield (NONE if healing == NONE else f"`{healing}`") + (" (dropped)" if cell.get("dropped") else "")
    for places in content["texts"].values():
        documents = [content["documents"][place] for place in places]
        own, control, compared = (
            {label: np.array(values)[places] for label, values in rows.items() if label in objectives}
            for rows in (cell["rows"], cell["control"], cells[base]["rows"])
        )
        yield _with_interval(objectives["perplexity"], own["perplexity"], documents)
        yield "" if healing == base else _gap(objectives["perplexity"], own, compared, documents)
        yield f"{objectives['kl'].value(own['kl']):.3f}"
        yield f"{objectives['perplexity'].value(control['perplexity']):.2f}"
    if accurate:
        verdicts = np.array(cell["rows"]["accuracy"])
        yield f"{verdicts.mean():.3f} ± {verdicts.std(ddof=1) / len(verdicts) ** 0.5:.3f}"
    yield f"{cell['tokens']:,} tokens" if cell.get("tokens") else ""
    yield f"{cell['layer_forwards']:,}" if "layer_forwards" in cell else ""
    yield f"{cell['adds']:,}" if cell.get("adds") else ""


def _with_interval(objective: Objective, rows: np.ndarray[Any, Any], documents: list[int]) -> str:
    low, high = interval(objective, rows, documents)
    ends = "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"
    return f"{objective.value(rows):.2f}{ends}"


def _gap(objective: Objective, own: Mapping[str, Any], compared: Mapping[str, Any], documents: list[int]) -> str:
    found = gap(objective, own["perplexity"], compared["perplexity"], documents)
    ends = "" if found.low is None or found.high is None else f" ({found.low:+.1%} to {found.high:+.1%})"
    return f"{found.value:+.1%}{ends}"


def main(
    setting: Setting,
    other: Annotated[
        Path | None, typer.Option(help="Text of another kind, such as that of `python -m benchmarks.news`.")
    ] = None,
    tasks: Annotated[Path | None, typer.Option(help="Multiple-choice items, as the objective accuracy reads.")] = None,
    steps: Annotated[int, typer.Option(help="Of every healing that trains.")] = 40,
    report_windows: Annotated[int, typer.Option(help="Over all texts.")] = 64,
    heal_windows: Annotated[int, typer.Option(help="To heal on, a fifth of them held out.")] = 96,
    plans: Annotated[str, typer.Option(help="Which plans, such as greedy,mixed.")] = ",".join(PLANS),
    kept: Annotated[Path, typer.Option(help="Where cells are kept.")] = KEPT,
    runs_dir: Annotated[Path, typer.Option(help="Where repairs are kept.")] = Path("runs"),
) -> None:
    """What each healing gives at equal steps, on the text that it was fitted on and on text of another kind.

    A part of what healing gains is that the model gets used to a text, which does not help on another one. Each healing
    is compared with LoRA on the next-token loss, window by window, with an interval over documents. The dense model is
    healed the same way, as a control. It goes on where it was stopped.

    Takes about an hour on 2 cores with AMX.
    """
    console, begun = Console(stderr=True, soft_wrap=True), time.monotonic()
    every, first_only = recipes(2 if setting.quick else steps)
    data = (setting.data or TOPICS, *([str(other)] if other else []))
    options = {name: value for name, value in setting.run_options.items() if name not in ("windows", "data")}
    report_windows = 32 * len(data) if setting.quick else report_windows
    options |= {"data": data, "heal_data": data[0]}
    options |= {"report_windows": report_windows, "heal_windows": 12 if setting.quick else heal_windows}
    objectives = ["perplexity", "kl"]
    if tasks is not None:
        objectives.append("accuracy")
        options["objective_args"] = {"accuracy": {"file": str(tasks), "items": 100}}
    store = Kept(
        kept,
        {
            "texts": len(data),
            "steps": steps,
            "report_windows": report_windows,
            "heal_windows": options["heal_windows"],
            **{name: options[name] for name in ("model", "dtype", "device", "window_tokens")},
        },
    )
    wanted = [name.strip() for name in plans.split(",")]
    for done, name in enumerate(wanted):
        if name not in PLANS:
            raise UsageError(f"Plan '{name}' is not known", f"There are {', '.join(PLANS)}")
        console.print(part_of(done, len(wanted), time.monotonic() - begun))
        healings = (*every, *(first_only if name == next(iter(PLANS)) else ()))
        if missing := store.missing(name, healings):
            found = searcher.heal(
                plan=PLANS[name], heal=missing, objective=objectives, runs_dir=str(runs_dir), **options
            )
            store.add(name, found)
    text = "\n".join(tables(store.content, every[0])).rstrip()
    typer.echo(text)
    if setting.of_the_project and other is not None:
        write_measured(DOCS / "healing.md", "healing", text)


cli = command(main, DEFAULTS, without=("out",))

if __name__ == "__main__":
    start(cli)
