"""What each healing gives, and whether healing changes which plan is best: the tables of docs/healing.md."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import searcher
from benchmarks.documents import DOCS, write_measured
from benchmarks.setting import Setting, command, start
from benchmarks.steps import part_of
from results.healings import healings_document

DEFAULTS = Setting()
STRATEGIES = ("greedy", "contiguous", "portfolio")
BUDGET = 8


def recipes(steps: int) -> dict[str, tuple[str, ...]]:
    """For the table of healings, and for that of plans."""
    lora = f"lora:steps={steps}"
    closed = ("bias", "linear", "linear:rank=16", "linear-folded")
    trained = tuple(f"{name}:steps={steps}" for name in ("layer", "ffn", "swiglu"))
    loras = (lora, f"{lora},where=after", f"{lora},where=after,iterative=true")
    return {"healings": (*closed, *trained, *loras), "plans": ("bias", "linear", lora)}


def healings_table(found: dict[str, Any]) -> Iterator[str]:
    """Of one plan, by all healings."""
    yield f"Plan {found['plan']}, {found['heal_windows']} windows of {found['window_tokens']} tokens of the heal split:"
    yield ""
    columns = ("healing", "report perplexity (95% interval)", "dense, healed the same", "to that", "trained on")
    yield f"| {' | '.join(columns)} | seconds | adds |"
    yield "|---|---|---|---|---|---|---|"
    dense, to_dense = found["dense"]["perplexity"]["value"], found["before_to_dense"]["perplexity"]
    yield f"| none | {interval(found['before'])} | {dense:.2f} | {to_dense:.2f}x | | | |"
    for one in found["healings"]:
        seconds = f"{one['seconds']:.0f}" + (" (dropped)" if one["dropped"] else "")
        tokens = f"{one['trained_tokens']:,} tokens" if one["trained_tokens"] else "closed form"
        adds = f"{one['parameters_added']:,} parameters" if one["parameters_added"] else ""
        control = f"{one['control']['perplexity']['value']:.2f} | {one['to_control']['perplexity']:.2f}x"
        yield f"| `{one['heal']}` | {interval(one['report'])} | {control} | {tokens} | {seconds} | {adds} |"


def plans_table(documents: dict[str, dict[str, Any]], names: Sequence[str]) -> Iterator[str]:
    """Of several plans, by some healings."""
    yield "Report perplexity of three plans before and after healing:"
    yield ""
    yield "| plan of | removes | before | " + " | ".join(f"`{name}`" for name in names) + " |"
    yield "|---|---|---|" + "---|" * len(names)
    for strategy, found in documents.items():
        values = {one["heal"]: one["report"] for one in found["healings"]}
        cells = " | ".join(interval(values[name]) for name in names)
        yield f"| {strategy} | {found['plan']} | {interval(found['before'])} | {cells} |"


def interval(values: dict[str, Any]) -> str:
    """Perplexity with its 95% interval."""
    value = values["perplexity"]
    return f"{value['value']:.2f} ({value['low']:.1f} to {value['high']:.1f})"


def main(
    setting: Setting,
    runs_dir: Annotated[Path, typer.Option(help="Where runs and repairs are kept.")] = Path("runs"),
) -> None:
    """What each healing gives, and whether healing changes which plan is best.

    Every plan is chosen on the search split, healed on the heal split and measured on the report split. All healings of
    a plan read the same windows. The dense model is healed the same way, as a control. It goes on where it was stopped.

    Takes about an hour on 2 cores with AMX.
    """
    console, begun = Console(stderr=True, soft_wrap=True), time.monotonic()
    asked = recipes(2 if setting.quick else 200)
    options = setting.run_options | {"budget": 2 if setting.quick else BUDGET, "runs_dir": str(runs_dir)}
    parts = {strategy: (strategy, asked["plans"]) for strategy in STRATEGIES} | {"": (STRATEGIES[0], asked["healings"])}
    documents = {}
    for done, (part, (strategy, heal)) in enumerate(parts.items()):
        console.print(part_of(done, len(parts), time.monotonic() - begun))
        run = searcher.run(strategy=strategy, **options)
        documents[part] = healings_document(searcher.heal(run, heal=heal))
    text = "\n".join([*healings_table(documents.pop("")), "", *plans_table(documents, asked["plans"])])
    typer.echo(text)
    if setting.of_the_project:
        write_measured(DOCS / "healing.md", "healing", text)


cli = command(main, DEFAULTS, without=("out",))

if __name__ == "__main__":
    start(cli)
