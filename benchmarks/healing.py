"""What each healing gives, and whether healing changes which plan is best: the tables of docs/healing.md.

    python -m benchmarks.healing            # about an hour on 2 cores; it goes on where it was stopped
    python -m benchmarks.healing --quick    # fewer steps, to try it

Every plan is chosen on the search split, healed on the heal split and measured on the report split. All healings of a
plan read the same windows. The dense model is healed the same way, as a control.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import searcher
from benchmarks.documents import DOCS, write_measured
from results.healings import healings_document

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
    yield f"Plan {found['plan']}, {found['heal_windows']} windows of {found['window_tokens']} tokens of the heal split:"
    yield ""
    yield "| healing | report perplexity (95% interval) | dense, healed the same | trained on | seconds | adds |"
    yield "|---|---|---|---|---|---|"
    yield f"| none | {interval(found['before'])} | {found['dense']['perplexity']['value']:.2f} | | | |"
    for one in found["healings"]:
        seconds = f"{one['seconds']:.0f}" + (" (dropped)" if one["dropped"] else "")
        tokens = f"{one['trained_tokens']:,} tokens" if one["trained_tokens"] else "closed form"
        adds = f"{one['parameters_added']:,} parameters" if one["parameters_added"] else ""
        control = f"{one['control']['perplexity']['value']:.2f}"
        yield f"| `{one['heal']}` | {interval(one['report'])} | {control} | {tokens} | {seconds} | {adds} |"


def plans_table(documents: dict[str, dict[str, Any]], names: Sequence[str]) -> Iterator[str]:
    yield "Report perplexity of three plans before and after healing:"
    yield ""
    yield "| plan of | removes | before | " + " | ".join(f"`{name}`" for name in names) + " |"
    yield "|---|---|---|" + "---|" * len(names)
    for strategy, found in documents.items():
        values = {one["heal"]: one["report"] for one in found["healings"]}
        cells = " | ".join(interval(values[name]) for name in names)
        yield f"| {strategy} | {found['plan']} | {interval(found['before'])} | {cells} |"


def interval(values: dict[str, Any]) -> str:
    value = values["perplexity"]
    return f"{value['value']:.2f} ({value['low']:.1f} to {value['high']:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--runs-dir", default="runs", help="where runs and repairs are kept")
    given = parser.parse_args()
    asked = recipes(20 if given.quick else 200)
    documents = {}
    for strategy in STRATEGIES:
        run = searcher.run(strategy=strategy, budget=BUDGET, runs_dir=given.runs_dir)
        documents[strategy] = healings_document(searcher.heal(run, heal=asked["plans"]))
    run = searcher.run(strategy=STRATEGIES[0], budget=BUDGET, runs_dir=given.runs_dir)
    healings = healings_document(searcher.heal(run, heal=asked["healings"]))
    text = "\n".join([*healings_table(healings), "", *plans_table(documents, asked["plans"])])
    print(text)
    if not given.quick:
        write_measured(DOCS / "healing.md", "healing", text)


if __name__ == "__main__":
    main()
