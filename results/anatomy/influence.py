"""Influence of units: what the loss rises by without each, and where the metrics rank them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from results.anatomy.analysis import Analysis, Part
from results.anatomy.heat import colour_bar, heat, name_ticks
from results.anatomy.kinds import by_kind
from results.anatomy.section import Section, Table, half_widths, show, show_interval
from results.anatomy.zoom import zoom
from results.pictures.style import GREY, INK, finite_or_nan, looks, new_figure, set_labels
from searcher.contracts.statistics import STATISTICS

TRUE = "leave-one-out loss"
_NOT_METRICS = ("units", "dense", "removed", "leave_one_out")


def influence_section(analysis: Analysis, part: Part) -> Section:
    """The loss without each unit, the ranks by every metric, and how far they agree."""
    loss, word = part.arrays["leave_one_out"], analysis.units(1)
    order = np.argsort(-_ranks(loss), kind="stable")
    cheapest, dearest = (f"{part.units[i]} ({show(float(loss[i]))} nats per token)" for i in order[[0, -1]])
    says = (
        f"What the loss rises by without each {word}, and how well metrics of the dense model, which are cheaper, put "
        f"them into the same order. The cheapest to remove is {cheapest}, the dearest {dearest}.{_closest(part)} "
        f"Intervals of the loss are {analysis.spread}; those of the correlations say how far {len(loss)} "
        f"{analysis.units(len(loss))} can be trusted to show a relation, not how it would change on other text."
    )
    tables = (_correlations(analysis, part), _table(analysis, part, order))
    return Section("Influence", says, _figure(analysis, part), tables)


def _by_correlation(part: Part) -> list[tuple[str, dict[str, Any]]]:
    """Every metric and its correlation with the leave-one-out loss, the highest first."""
    found = part.facts["correlations"]
    names = [name for name in part.arrays if name not in _NOT_METRICS]
    rated = [(name, found[name]) for name in names]
    return sorted(rated, key=lambda item: -2.0 if item[1]["value"] is None else item[1]["value"], reverse=True)


def _closest(part: Part) -> str:
    (name, found), *_ = _by_correlation(part)
    if found["value"] is None:
        return ""
    return f" Closest to the true order comes {name}, with a rank correlation of {_shown(found)}."


def _shown(found: dict[str, Any]) -> str:
    return show_interval(found["value"], found["low"], found["high"])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for the unit that matters most; one that breaks the model matters most of all."""
    ranks: NDArray[np.float64] = stats.rankdata(-np.nan_to_num(values, nan=np.inf, posinf=np.inf, neginf=-np.inf))
    return ranks


def _half_widths(analysis: Analysis, part: Part) -> NDArray[np.float64]:
    return half_widths(part.arrays["removed"] - part.arrays["dense"], analysis.documents)


def _figure(analysis: Analysis, part: Part) -> Figure:
    loss, word = part.arrays["leave_one_out"], analysis.units(1)
    caption = [
        f"{analysis.setting}. Above: the mean loss without the {word} less that of the dense model; bars are 95% "
        f"Student t intervals {analysis.spread}. Below: each row ranks the {analysis.units(2)}, 1 (dark) matters most; "
        "in brackets its rank correlation with the first row. A good metric looks like the first row."
    ]
    if broken := int((~np.isfinite(loss)).sum()):
        caption.append(f"Not drawn above: {broken} whose removal breaks the model.")
    figure, axes = new_figure(f"What each {word} is worth, and what the metrics say of it", caption, 2, 3.0)
    _draw_losses(axes[0], part.units, finite_or_nan(loss), _half_widths(analysis, part))
    rated = _by_correlation(part)
    rows = [loss, *(part.arrays[name] for name, _ in rated)]
    norm = Normalize(1, max(2, len(part.units)))
    image = heat(axes[1], np.array([_ranks(values) for values in rows]), norm, square=False)
    name_ticks(axes[1], "x", part.units)
    name_ticks(axes[1], "y", [TRUE, *(f"{name} ({show(found['value'], 2)})" for name, found in rated)])
    set_labels(axes[1], word, "", "Ranks")
    colour_bar(figure, image, axes[1], "rank")
    return figure


def _draw_losses(ax: Axes, units: tuple[str, ...], loss: NDArray[np.float64], half: NDArray[np.float64]) -> None:
    ax.axhline(0, color=GREY, linewidth=0.9)
    bars, kinds = np.nan_to_num(half), by_kind(units)
    for look, places in zip(looks(list(kinds)), kinds.values(), strict=True):
        points: dict[str, Any] = {"color": look.colour, "marker": look.marker, "label": look.label}
        ax.errorbar(places, loss[places], yerr=bars[places], markersize=5, linestyle="none", **points)
    if len(kinds) > 1:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(kinds), frameon=False, labelcolor=INK)
    ax.set_xlim(-0.5, len(units) - 0.5)
    label = zoom(ax, loss, "nats per token")
    name_ticks(ax, "x", units)
    set_labels(ax, "", label, "What the loss rises by without it")


def _correlations(analysis: Analysis, part: Part) -> Table:
    rows = ((name, _meaning(name), _shown(found)) for name, found in _by_correlation(part))
    return Table(
        f"How well each metric ranks the {analysis.units(2)} as their removal does",
        ("metric", "what it is", "rank correlation (95% interval)"),
        tuple(rows),
        words=2,
        note=f"Spearman's, over {len(part.units)} {analysis.units(len(part.units))}, with the leave-one-out loss. 1: "
        "the same order, 0: no relation, -1: reversed. Intervals by Fisher's transformation.",
    )


def _meaning(name: str) -> str:
    return f"1 - {STATISTICS[name]}" if name == "cosine" else STATISTICS[name]


def _table(analysis: Analysis, part: Part, order: NDArray[np.int64]) -> Table:
    names = [name for name, _ in _by_correlation(part)]
    loss, half = part.arrays["leave_one_out"], _half_widths(analysis, part)
    rows = []
    for i in order:
        given = [f"{part.arrays[name][i]:.4g}" for name in names]
        rows.append((part.units[i], show_interval(loss[i], loss[i] - half[i], loss[i] + half[i], 4), *given))
    columns = (analysis.units(1), f"{TRUE} (95% interval)", *names)
    return Table(f"Every {analysis.units(1)}, the cheapest to remove first", columns, tuple(rows), folded=True)
