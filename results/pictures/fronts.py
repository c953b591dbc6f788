"""Pareto fronts of several runs for any two quantities."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from results.axes import SIZE, Quantity, find_quantity
from results.finished_run import FinishedRun
from results.front import nondominated
from results.labels import run_labels, setting, windows
from results.pictures.style import INK, Look, add_legend, axis_end, looks, new_figure, scale, set_labels
from searcher.contracts.plan import PrunePlan

FEW = 2000
"""Points of one run that are drawn one by one; more are drawn as an image inside the picture, which stays small."""


def pareto_front(runs: Sequence[FinishedRun], x: str, y: str) -> Figure:
    """Every plan that the searches measured in full, and each run's front: the plans that none of its others beats.

    Args:
        runs: of one model and text.
        x: an objective, `size`, or an amount such as `parameters`.
        y: the same.

    Raises:
        UsageError: a run cannot show one of them.
    """
    across, up = find_quantity(runs, x), find_quantity(runs, y)
    points = [measured_points(run, across, up)[1] for run in runs]
    together = np.concatenate(points)
    fronts = [front_of(values, across, up) for values in points]
    dense = (across.of(runs[0], PrunePlan()), up.of(runs[0], PrunePlan()))
    seen = [dense[1], *np.concatenate(fronts)[:, 1].tolist()]
    end = axis_end(seen, up.lower_is_better)
    shown = np.where(together[:, 1] <= end, together[:, 1], np.nan)
    caption = _caption(runs, across, up, together, int((np.isfinite(together[:, 1]) & np.isnan(shown)).sum()))
    figure, (ax,) = new_figure(f"Pareto fronts: {y} against {x}", caption, panel_height=4.8)
    all_looks = looks(run_labels(runs))
    for look, values, front in zip(all_looks, points, fronts, strict=True):
        _draw(ax, look, values[values[:, 1] <= end], front, across)
    (star,) = ax.plot(*([value] for value in dense), "*", color=INK, markersize=11, linestyle="none", gid="dense")
    for which, quantity, numbers in (("x", across, together[:, 0]), ("y", up, np.append(shown, dense[1]))):
        amount = quantity.static and quantity.name != SIZE
        scale(ax, which, numbers, whole=quantity.name == SIZE, engineering=amount)
    set_labels(ax, f"{across.label}: {_better(across)}", f"{up.label}: {_better(up)}")
    add_legend(figure, [*((look.handle(), look.label) for look in all_looks), (star, "dense model")])
    return figure


def measured_points(run: FinishedRun, x: Quantity, y: Quantity) -> tuple[tuple[PrunePlan, ...], NDArray[np.float64]]:
    """The plans that the search measured in full, except for the dense one, and float64 (plans, 2): their numbers."""
    plans = tuple(plan for plan in run.measurements.plans("search") if plan.removed)
    values = np.array([(x.of(run, plan), y.of(run, plan)) for plan in plans], dtype=np.float64).reshape(-1, 2)
    return plans, values


def front_of(values: NDArray[np.float64], x: Quantity, y: Quantity) -> NDArray[np.float64]:
    """float64 (front, 2): the finite points that no other beats, by ascending x."""
    finite = values[np.isfinite(values).all(axis=1)]
    signs = np.where([x.lower_is_better, y.lower_is_better], 1.0, -1.0)
    front = finite[nondominated((finite * signs).tolist())]
    return np.unique(front, axis=0)


def _draw(ax: Axes, look: Look, values: NDArray[np.float64], front: NDArray[np.float64], x: Quantity) -> None:
    ax.scatter(
        values[:, 0],
        values[:, 1],
        s=9,
        color=look.colour,
        alpha=0.22,
        linewidths=0,
        rasterized=len(values) > FEW,
        gid="measured",
    )
    # a plan is also as good as any that asks less of it, so that steps lead away from the better side of x
    ax.plot(
        front[:, 0],
        front[:, 1],
        color=look.colour,
        marker=look.marker,
        markersize=5,
        linewidth=1.6,
        drawstyle="steps-post" if x.lower_is_better else "steps-pre",
        gid="front",
    )


def _better(quantity: Quantity) -> str:
    return "less is better" if quantity.lower_is_better else "more is better"


def _caption(
    runs: Sequence[FinishedRun], x: Quantity, y: Quantity, values: NDArray[np.float64], beyond: int
) -> list[str]:
    broken = int((~np.isfinite(values)).any(axis=1).sum())
    lines = [
        f"{setting(runs[0])}, {windows(runs[0], 'search')}. Faint: every plan measured in full. Steps: the front of "
        "each run, the plans that no other of its plans beats in both.",
    ]
    if not (x.static and y.static):
        lines.append(
            "These are the windows on which the plans were chosen: exact for them, flattering for other text, and "
            "without intervals. The report windows judge."
        )
    if broken or beyond:
        lines.append(
            f"Not drawn, of {len(values):,} plans: {beyond:,} so bad that they lie far above, {broken:,} that break "
            "the model."
        )
    return lines
