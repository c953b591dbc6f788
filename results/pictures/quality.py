"""Quality against size: what removing more costs, for every run, with intervals."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.finished_run import FinishedRun
from results.labels import run_labels, setting, units, windows
from results.pictures.style import GREY, INK, Look, add_legend, finite_or_nan, looks, new_figure, scale, set_labels


def quality_against_size(runs: Sequence[FinishedRun], objective: str | None = None) -> Figure:
    """An objective of the chosen plan of each size, on the report split, with 95% intervals; a panel a granularity.

    Args:
        runs: of one model and text.
        objective: label; the first of the first run by default.
    """
    name = objective or next(iter(runs[0].objectives))
    groups = by_granularity(runs)
    figure, axes = new_figure(f"What removing units costs: {name}", _caption(runs, name), panels=len(groups))
    all_looks = looks(run_labels(runs))
    unit = runs[0].objectives[name].unit
    for ax, (granularity, members) in zip(axes, groups.items(), strict=True):
        scale(ax, "y", _panel(ax, runs, members, all_looks, name))
        scale(ax, "x", (), whole=True)
        label = name if unit == name else f"{name} ({unit})"
        set_labels(ax, f"{units(granularity)} removed", label, granularity if len(groups) > 1 else "")
    dense = axes[0].lines[0]
    add_legend(figure, [*((look.handle(), look.label) for look in all_looks), (dense, "dense model")])
    return figure


def by_granularity(runs: Sequence[FinishedRun]) -> dict[str, list[int]]:
    """Positions of the runs of each granularity: sizes in different units must not share an axis."""
    groups: dict[str, list[int]] = {}
    for position, run in enumerate(runs):
        groups.setdefault(str(run.config.granularity), []).append(position)
    return groups


def _panel(
    ax: Axes, runs: Sequence[FinishedRun], members: Sequence[int], looks: Sequence[Look], name: str
) -> list[float]:
    """Draw the runs at these positions; returns the values drawn."""
    dense = runs[members[0]].dense.report[name]
    ax.axhline(dense.value, color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
    low, high = finite_or_nan([dense.low, dense.high])
    if np.isfinite([low, high]).all():
        ax.axhspan(low, high, color=GREY, alpha=0.12, linewidth=0)
    values = [dense.value, low, high]
    for position, member in enumerate(members):
        beside = (position - (len(members) - 1) / 2) * min(0.12, 0.6 / len(members))
        values += _draw(ax, runs[member], looks[member], name, beside)
    return values


def _draw(ax: Axes, run: FinishedRun, look: Look, name: str, beside: float) -> list[float]:
    """The chosen plans of one run, moved sideways so that the intervals of several runs stand beside one another."""
    reports = [evaluation.report[name] for evaluation in run.chosen]
    value = finite_or_nan(report.value for report in reports)
    low, high = (finite_or_nan(getattr(report, end) for report in reports) for end in ("low", "high"))
    ax.errorbar(
        np.array([evaluation.size for evaluation in run.chosen]) + beside,
        value,
        yerr=np.nan_to_num(np.abs([value - low, high - value])),
        color=look.colour,
        marker=look.marker,
        markersize=5,
        linewidth=1.2,
        elinewidth=1.2,
        capsize=0,
        gid=f"run:{run.folder.name}",
    )
    return [*value, *low, *high]


def _caption(runs: Sequence[FinishedRun], name: str) -> list[str]:
    reports = [evaluation.report[name] for run in runs for evaluation in run.chosen]
    broken = sum(not np.isfinite(report.value) for report in reports)
    lines = [
        f"{setting(runs[0])}. Each point is the plan of that size that the run chose on search windows, measured on "
        f"{windows(runs[0], 'report')}.",
        f"Bars and the grey band: {runs[0].interval_in_words(name)}, each plan by itself. All plans are measured on "
        "the same, so that they may differ clearly although their bars overlap.",
    ]
    if broken:
        lines.append(f"Not drawn: {broken} of {len(reports)} plans, which break the model.")
    return lines
