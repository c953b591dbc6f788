"""How soon a search found what it found: the best score so far against the cost charged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.finished_run import FinishedRun
from results.labels import run_labels, setting, units, windows
from results.pictures.style import Look, add_legend, axis_end, looks, new_figure, scale, set_labels
from searcher.contracts.plan import PrunePlan
from searcher.runs.journal import read_evaluations
from searcher.runs.layout import layout_from_json
from searcher.runs.measurement import Measurements


@dataclass(frozen=True)
class Progress:
    """The best plan of the full size, each time it changed.

    Attributes:
        cost: charged until then, in layer-forward equivalents per 1,000 tokens, spread evenly over the evaluations.
        value: its value on the search windows.
        plans: itself.
        total: cost charged in the end.
    """

    cost: tuple[float, ...]
    value: tuple[float, ...]
    plans: tuple[PrunePlan, ...]
    total: float


def convergence(runs: Sequence[FinishedRun], objective: str | None = None) -> Figure:
    """The best value of a plan of the full size so far against cost charged; a panel for each size and granularity.

    Args:
        runs: of one model and text.
        objective: label; the first of the first run by default.
    """
    name = objective or next(iter(runs[0].objectives))
    groups: dict[tuple[str, int], list[int]] = {}
    for position, run in enumerate(runs):
        groups.setdefault((str(run.config.granularity), run.outcome["size"]), []).append(position)
    figure, axes = new_figure(f"Best {name} so far against cost", _caption(runs), panels=len(groups), panel_height=3.6)
    all_looks = looks(run_labels(runs))
    for ax, ((granularity, size), members) in zip(axes, groups.items(), strict=True):
        found = [best_so_far(runs[member], name) for member in members]
        for member, progress in zip(members, found, strict=True):
            _draw(ax, progress, all_looks[member])
        _set_ends(ax, found, runs[0].objectives[name].lower_is_better)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter("{x:,.0f}")
        title = f"{size} {units(granularity, size)} removed"
        set_labels(ax, "cost charged (layer-forward equivalents per 1,000 tokens)", f"search {name}", title)
    add_legend(figure, [(look.handle(), look.label) for look in all_looks])
    return figure


def best_so_far(run: FinishedRun, objective: str) -> Progress:
    """Replay the journal of a run in the order in which plans were measured.

    The journal says when a plan was measured, and the outcome what all of them were charged; what a single one was
    charged depends on the plans asked for together with it, so that each gets an equal share.
    """
    measure, known = run.objectives[objective], Measurements(layout_from_json(run.record["layout"]))
    charged = run.outcome["cost"]["charged"]
    rows = sum(group.rows for group in known.layout["search"])
    done, best, found = 0, np.inf, []
    for line in read_evaluations(run.folder):
        if line.split != "search":
            continue
        known.add(line)
        done += len(line.rows)
        if line.plan.size(run.config.granularity) != run.outcome["size"] or not known.complete("search", line.plan):
            continue
        value = measure.value(known.rows("search", line.plan, objective))
        score = measure.turned(value)
        if score < best:
            best = score
            found.append((done / rows, value, line.plan))
    first, share = _begin_and_share(run)
    cost, values, plans = (
        zip(*((min(first + n * share, charged["total"]), v, p) for n, v, p in found), strict=True)
        if found
        else ((), (), ())
    )
    return Progress(cost, values, plans, charged["total"])


def _begin_and_share(run: FinishedRun) -> tuple[float, float]:
    """The cost charged before the first plan, and that of each plan; screening is spread over the plans."""
    parts = run.outcome.get("charges", {"plans": run.outcome["cost"]["charged"]})  # older runs have not told them apart
    plans, screening = parts.get("plans", {}), parts.get("screening", {})
    if not plans.get("evaluations"):
        return 0.0, 0.0
    first = sum(part["total"] for name, part in parts.items() if name in ("preparing", "statistics", "healing"))
    return first, (plans["total"] + screening.get("total", 0.0)) / plans["evaluations"]


def _draw(ax: Axes, progress: Progress, look: Look) -> None:
    if not progress.cost:
        return
    x, y = (*progress.cost, progress.total), (*progress.value, progress.value[-1])
    ax.plot(x, y, color=look.colour, linewidth=1.6, drawstyle="steps-post", gid="best")
    ax.plot(x[:1], y[:1], color=look.colour, marker=look.marker, markersize=5, linestyle="none")
    ax.plot(x[-1:], y[-1:], color=look.colour, marker=look.marker, markersize=7, linestyle="none")


def _set_ends(ax: Axes, found: Sequence[Progress], lower_is_better: bool) -> None:
    """Leave out what the searches began with where it is many times what they ended with."""
    values = [value for progress in found for value in progress.value]
    end = axis_end([progress.value[-1] for progress in found if progress.value], lower_is_better)
    shown = [value for value in values if value <= end]
    scale(ax, "y", shown)
    if len(shown) < len(values):
        ax.set_ylim(0.9 * min(shown), end)


def _caption(runs: Sequence[FinishedRun]) -> list[str]:
    return [
        f"{setting(runs[0])}, {windows(runs[0], 'search')}. Only plans of the full size count; a search that builds "
        "its plan up has none until its end. Small marker: the first such plan (it may lie far above the picture). "
        "Large marker: the end of the search.",
        "Each plan and window is charged once, whether it was run or taken over from another run; the charge of a run "
        "is spread evenly over its evaluations. Values are exact for these windows, and no claim about other text.",
    ]
