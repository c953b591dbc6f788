"""The pictures of the study, from its tables."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from results.pictures.style import GREY, INK, add_legend, looks, new_figure, scale, set_labels
from study.claims import Pooled
from study.facts import TEXTS, Transferred, perplexity
from study.read import Tables

RESOLUTION = 110


def write_pictures(tables: Tables, found: Sequence[Pooled], chosen: Sequence[Transferred], folder: Path) -> None:
    """Write `gaps.png`, `quality.png` and `texts.png`."""
    for name, figure in {
        "gaps": gaps(found),
        "quality": quality(tables),
        "texts": texts(chosen),
    }.items():
        figure.savefig(folder / f"{name}.png", dpi=RESOLUTION)


def gaps(found: Sequence[Pooled]) -> Figure:
    """Each strategy's gap to greedy on unseen text: a point per data seed, a bar for their mean."""
    methods = looks(list(dict.fromkeys(one.method for one in found)))
    places = list(dict.fromkeys((one.granularity, one.size) for one in found))
    figure, (ax,) = new_figure(
        "How far a search gets beyond greedy on unseen text",
        [
            "Perplexity on the report windows of prose, relative to greedy's plan for the same search windows. A faint "
            "point for each choice of search windows; the dark one is their mean, with its 95% interval between "
            "documents. Left of the line greedy is beaten."
        ],
        panel_height=0.5 + 0.42 * len(places),
    )
    step = 0.8 / len(methods)
    for one in found:
        look = next(look for look in methods if look.label == one.method)
        height = places.index((one.granularity, one.size)) + step * (methods.index(look) + 0.5) - 0.4
        single = [beside.report_gap.value for beside in one.besides]
        ax.plot(single, [height] * len(single), look.marker, color=look.colour, alpha=0.3, markersize=5, linestyle="")
        ends = [one.report_gap.low, one.report_gap.high]
        if None not in ends:
            ax.plot(ends, [height] * 2, color=look.colour, linewidth=2)
        ax.plot(one.report_gap.value, height, look.marker, color=look.colour, markersize=7)
    ax.axvline(0, color=GREY, linewidth=1)
    ax.set_yticks(range(len(places)), [f"{size} {_units(granularity)}" for granularity, size in places])
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    set_labels(ax, "perplexity relative to greedy", "removed")
    add_legend(figure, [(look.handle(), look.label) for look in methods])
    return figure


def quality(tables: Tables) -> Figure:
    """Perplexity against how much is removed, by granularity, greedy and the first strategy."""
    methods = list(dict.fromkeys(one.method for one in tables.of(text="prose")))[:2]
    granularities = looks(list(dict.fromkeys(one.granularity for one in tables.of(text="prose"))))
    figure, (ax,) = new_figure(
        "Perplexity against how much is removed",
        [
            "Report windows of prose; mean of the loss over the choices of search windows. Sublayers are a free mix of "
            "attention and FFN, of which there are twice as many as blocks."
        ],
    )
    dense = perplexity(tables, "prose", "dense")
    values = [dense]
    for look in granularities:
        for method, line in zip(methods, ("--", "-"), strict=False):
            sizes = sorted({one.size for one in tables.of(text="prose", granularity=look.label, method=method)})
            curve = [_mean_perplexity(tables, look.label, size, method) for size in sizes]
            ax.plot([0, *sizes], [dense, *curve], line, color=look.colour, marker=look.marker, markersize=5)
            values += curve
    scale(ax, "y", values)
    set_labels(ax, "units removed", "report perplexity")
    lines = [Line2D([], [], color=INK, linestyle=line) for line in ("--", "-")]
    entries = [(look.handle(), _units(look.label)) for look in granularities]
    add_legend(figure, [*entries, *zip(lines, methods, strict=False)])
    return figure


def texts(chosen: Sequence[Transferred]) -> Figure:
    """What a plan chosen on one text costs on the others, relative to the best plan for each."""
    values = np.array([[*one.perplexities] for one in chosen])
    worse = values / values.min(axis=0) - 1
    accuracy = [one.accuracy for one in chosen]
    figure, (ax,) = new_figure(
        "What plans cost on texts they were not chosen on",
        [
            "Rows: plans of the same size, by the text they were chosen on. Columns: where they are judged, on unseen "
            "text. Perplexity above that of the best plan of the column, darkest where doubled; share of right items."
        ],
        panel_height=0.8 + 0.45 * len(chosen),
    )
    ax.imshow(worse, cmap="Blues", aspect="auto", vmin=0, vmax=1)
    for row, column in np.ndindex(worse.shape):
        dark = worse[row, column] > 0.6
        told = f"{values[row, column]:.1f} ({worse[row, column]:+.0%})"
        ax.text(column, row, told, ha="center", va="center", color="white" if dark else INK)
    for row, share in enumerate(accuracy):
        ax.text(len(TEXTS), row, f"{share:.1%}", ha="center", va="center", color=INK)
    ax.set_xlim(-0.5, len(TEXTS) + 0.5)
    ax.set_xticks(range(len(TEXTS) + 1), [*TEXTS, "choices (right)"])
    ax.set_yticks(range(len(chosen)), [f"{one.found.text}, {one.found.method}" for one in chosen])
    ax.grid(visible=False)
    set_labels(ax, "judged on", "chosen on")
    return figure


def _mean_perplexity(tables: Tables, granularity: str, size: int, method: str) -> float:
    found = tables.of(text="prose", granularity=granularity, size=size, method=method)
    return float(np.exp(np.mean([tables.mean("prose", "loss", one.plan) for one in found])))


def _units(granularity: str) -> str:
    return {"block": "blocks", "attention": "attentions", "ffn": "FFNs", "sublayer": "sublayers"}[granularity]
