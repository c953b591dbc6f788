"""The chosen plans of several runs on one Pareto front, also of runs that remove different units."""

from collections.abc import Sequence
from dataclasses import dataclass

from results.axes import SIZE, Quantity, find_quantity, known_quantities
from results.front import hypervolume, nondominated
from results.run import Run
from searcher.plan import PrunePlan


@dataclass(frozen=True)
class Point:
    """A plan on the front.

    Attributes:
        plan: what is removed.
        values: on each axis, on the search split.
        runs: which chose it.
    """

    plan: PrunePlan
    values: tuple[float, float]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class JointFront:
    """What no chosen plan of any run beats in both axes.

    Attributes:
        axes: names of the two.
        points: on the front, by the first axis, the least first.
        worst: of each axis, of the chosen plans of all runs: where hypervolumes end.
        hypervolumes: of each run's own plans, as a share of that of all together.
    """

    axes: tuple[str, str]
    points: tuple[Point, ...]
    worst: tuple[float, float]
    hypervolumes: tuple[tuple[Run, float], ...]


def joint_front(runs: Sequence[Run], objective: str, other: str | None = None) -> JointFront | None:
    """The front of an objective against another axis: by default parameters, or sizes if they are not known.

    Args:
        runs: comparable ones.
        objective: label of an objective that all have measured.
        other: an objective, `size`, or what a plan leaves: `parameters`, `weights-bytes`, `kv-cache` or `flops`.

    Returns:
        None where there is no axis that all runs share.

    Raises:
        UsageError: an axis that was asked for is not one of all runs.
    """
    known = known_quantities(runs)
    other = other or next((name for name in ("parameters", SIZE) if name in known and name != objective), None)
    if other is None:
        return None
    axes = find_quantity(runs, other), find_quantity(runs, objective)
    chosen = {(run.folder, e.plan): (run, e.plan) for run in runs for e in (*run.chosen, *run.front())}
    of_run = {run.folder: [plan for r, plan in chosen.values() if r is run] for run in runs}
    values: dict[PrunePlan, tuple[float, float]] = {}
    for run, plan in chosen.values():
        values.setdefault(plan, (axes[0].of(run, plan), axes[1].of(run, plan)))
    plans, signs = list(values), tuple(1.0 if axis.lower_is_better else -1.0 for axis in axes)
    points = {plan: (signs[0] * x, signs[1] * y) for plan, (x, y) in values.items()}
    best = [plan for plan, keep in zip(plans, nondominated(list(points.values())), strict=True) if keep]
    worst = tuple(max(point[i] for point in points.values()) for i in range(2))
    whole = hypervolume(list(points.values()), worst)
    shares = [(run, hypervolume([points[p] for p in of_run[run.folder]], worst) / (whole or 1.0)) for run in runs]
    found = [Point(p, values[p], tuple(run for run in runs if p in of_run[run.folder])) for p in best]
    return JointFront(
        axes=_names(axes),
        points=tuple(sorted(found, key=lambda point: (point.values, point.plan))),
        worst=(signs[0] * worst[0], signs[1] * worst[1]),
        hypervolumes=tuple(shares),
    )


def _names(axes: tuple[Quantity, Quantity]) -> tuple[str, str]:
    return axes[0].name, axes[1].name
