"""`docs/study.md`: the tables of the study as a page, with every figure computed from its CSV files."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.documents import write_measured
from objectives.accuracy import Accuracy
from results.intervals import interval
from results.rounding import rounding_bound
from results.side_by_side import show_gap
from study.claims import LEVEL, Beside, Pooled, besides, pooled
from study.facts import (
    Transferred,
    dense_transferred,
    disagreement,
    healed,
    healings,
    misuses,
    perplexity,
    transferred,
    turned,
)
from study.pictures import write_pictures
from study.read import Tables
from study.records import Certificate
from study.tiers import ALLOWANCE, MORE_TEXT

HERE = Path(__file__).parent
UNITS = {"block": "blocks", "attention": "attentions", "ffn": "FFNs", "sublayer": "sublayers"}
WON = -0.1
"""The gap that counts as a clear win over greedy."""


def write_page(data: Path, page: Path, readme: Path | None) -> None:
    """Write the page and its pictures from the tables in a folder, and the answer into the README.

    Args:
        data: the folder of the CSV files and of `setting.json`; pictures are written there too.
        page: the Markdown file.
        readme: a file with a place for the answer, if there is one.
    """
    tables = Tables(data)
    found, chosen = pooled(tables), transferred(tables)
    first = [one for one in chosen if one.found.granularity == chosen[0].found.granularity]
    write_pictures(tables, found, first, data)
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "gap": show_gap,
        "percent": _percent,
        "direction": _direction,
        "units": UNITS.__getitem__,
        "exp": np.exp,
    }
    context = _context(tables, found, chosen, first, json.loads((data / "setting.json").read_text(encoding="utf-8")))
    answer = environment.get_template("answer.md.jinja").render(context).strip()
    context |= {"answer": answer, "folder": data.name}
    page.write_text(environment.get_template("page.md.jinja").render(context), encoding="utf-8")
    if readme is not None:
        write_measured(readme, "study", answer)


def _context(
    tables: Tables,
    found: Sequence[Pooled],
    chosen: Sequence[Transferred],
    first: Sequence[Transferred],
    setting: dict[str, Any],
) -> dict[str, Any]:
    """Everything that the templates print."""
    single = besides(tables)
    recipes = healings(tables)
    dense_texts, dense_accuracy = dense_transferred(tables)
    return {
        "setting": setting,
        "tables": tables,
        "allowance": ALLOWANCE,
        "level": LEVEL,
        "pooled": found,
        "by_granularity": {
            g: [p for p in found if p.granularity == g] for g in dict.fromkeys(p.granularity for p in found)
        },
        "besides": single,
        "greedy": tables.of(text="prose", method="greedy"),
        "same_cost": [b for b in besides(tables, MORE_TEXT) if b.other.method not in ("greedy", MORE_TEXT)],
        "more_text": MORE_TEXT,
        "turned": turned(single),
        "closest": _closest(tables, single, chosen[0].found.size),
        "recipe": recipes[0],
        "healed": healed(tables, recipes[0]),
        "dense_healed": perplexity(tables, "prose", "dense", f"loss after {recipes[0]}"),
        "dense": perplexity(tables, "prose", "dense"),
        "dense_texts": dense_texts,
        "dense_accuracy": dense_accuracy,
        "dense_right": _right(tables, "dense"),
        "right": partial(_right, tables),
        "rounding": list(
            dict.fromkeys(_allowed(tables, b.other.windows) for b in single if not np.isnan(b.search_gap))
        ),
        "is_rounded": partial(_is_rounded, tables),
        "items": len(tables.values("choices", "accuracy", "dense")),
        "transferred": chosen,
        "misuses": misuses(first),
        "disagreement": disagreement(tables),
        "exact": [one for one in tables.certificates if one.optimum == one.greedy],
        "minutes": sum(one.seconds for one in tables.searches) / 60,
        "documents": len(set(tables.documents["prose"])),
        "distinct": {
            (f.granularity, f.size): len(
                {g.plan for g in tables.of(text="prose", method="greedy", granularity=f.granularity, size=f.size)}
            )
            for f in tables.of(text="prose", method="greedy")
        },
    }


def _closest(tables: Tables, found: Sequence[Beside], size: int) -> dict[str, Any]:
    """The best that was found against greedy when so many blocks are removed, and at what cost."""
    members = [b for b in found if (b.other.granularity, b.other.size) == ("block", size) and b.search_gap <= 0]
    best = min(members, key=lambda beside: beside.report_gap.value)
    searches = tables.of(text="prose", granularity="block", size=size)
    certified = [one for one in tables.certificates if (one.granularity, one.size) == ("block", size)]
    return {
        "size": size,
        "best": best,
        "won": best.report_gap.value <= WON,
        "searches": len(searches) + len(certified),
        "plans": sum(one.plans_charged for one in searches) + sum(one.plans for one in certified),
        "cost": sum(one.cost_charged for one in searches) + sum(one.cost for one in certified),
    }


def _right(tables: Tables, plan: str) -> str:
    """The share of right items with its interval, such as `89.2% (82.4% to 93.6%)`."""
    items = tables.values("choices", "accuracy", plan)
    low, high = interval(Accuracy("choices"), items)
    return f"{items.mean():.1%}" + ("" if low is None or high is None else f" ({low:.1%} to {high:.1%})")


def _allowed(tables: Tables, windows: int) -> str:
    """How far below greedy's a perplexity may be by rounding alone."""
    return f"{-np.expm1(-rounding_bound(tables.dtype, windows)):.1%} ({windows} windows)"


def _is_rounded(tables: Tables, one: Certificate) -> bool:
    """Whether rounding explains how far the optimum is from greedy's plan."""
    gap = abs(float(np.log(one.optimum_perplexity / one.greedy_perplexity)))
    return gap <= rounding_bound(tables.dtype, one.windows)


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{value:+.1%}"


def _direction(value: float) -> str:
    return f"{abs(value):.1%} {'lower' if value < 0 else 'higher'}"
