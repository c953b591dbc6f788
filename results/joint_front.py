"""The chosen plans of several runs on one Pareto front, also of runs that remove different units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from results.axes import SIZE, Quantity, find_quantity, known_quantities
from results.bounds import Bound, bound_of
from results.finished_run import FinishedRun
from results.front import hypervolume, nondominated
from results.intervals import is_exponential
from searcher.contracts.plan import PrunePlan


@dataclass(frozen=True)
class Point:
    """A plan on the front.

    Attributes:
        plan: what is removed.
        values: on each axis, in their order, on the search split.
        runs: which chose it.
    """

    plan: PrunePlan
    values: tuple[float, ...]
    runs: tuple[FinishedRun, ...]


@dataclass(frozen=True)
class JointFront:
    """The plans that no other plan of any run beats in all axes: of those each run chose, or has on its own front.

    Attributes:
        axes: names, the objective last.
        points: on the front, by the first axis, the least first.
        bounds: of each axis, where hypervolumes end: they follow from the dense model, and not from what is compared;
            None of an axis that it does not bound.
        hypervolumes: of each run's own plans, as a share of the volume between both ends of every axis; none where an
            axis has no bound.
        logarithmic: axes whose logarithm hypervolumes are of: perplexities, which differ by factors.
    """

    axes: tuple[str, ...]
    points: tuple[Point, ...]
    bounds: tuple[Bound | None, ...]
    hypervolumes: tuple[tuple[FinishedRun, float], ...]
    logarithmic: tuple[str, ...]


def joint_front(runs: Sequence[FinishedRun], objective: str, *others: str) -> JointFront | None:
    """The front of an objective against other axes: by default parameters, or sizes if they are not known.

    Args:
        runs: comparable ones.
        objective: label of an objective that all have measured.
        others: objectives, `size`, or what a plan leaves: `parameters`, `weights-bytes`, `kv-cache` or `flops`.

    Returns:
        None where there is no axis that all runs share.

    Raises:
        UsageError: an axis that was asked for is not one of all runs.
    """
    names = others or _default(runs, objective)
    if not names:
        return None
    axes = [_axis(runs, name) for name in (*names, objective)]
    of_run = {run.folder: {e.plan for e in (*run.chosen, *run.front())} for run in runs}
    values: dict[PrunePlan, tuple[float, ...]] = {}
    for run in runs:
        for plan in sorted(of_run[run.folder] - values.keys()):
            values[plan] = tuple(axis.quantity.of(run, plan) for axis in axes)
    points = {plan: tuple(axis.scaled(x) for axis, x in zip(axes, v, strict=True)) for plan, v in values.items()}
    found = [
        Point(plan, values[plan], tuple(run for run in runs if plan in of_run[run.folder]))
        for plan, kept in zip(points, nondominated(list(points.values())), strict=True)
        if kept
    ]
    shares = [(run, _share(run, axes, [points[plan] for plan in of_run[run.folder]])) for run in runs]
    return JointFront(
        axes=tuple(axis.quantity.name for axis in axes),
        points=tuple(sorted(found, key=lambda point: (point.values, point.plan))),
        bounds=tuple(bound_of(runs[0], axis.quantity) for axis in axes),
        hypervolumes=tuple((run, share) for run, share in shares if share is not None),
        logarithmic=tuple(axis.quantity.name for axis in axes if axis.logarithmic),
    )


def _share(run: FinishedRun, axes: "Sequence[_Axis]", points: Sequence[tuple[float, ...]]) -> float | None:
    """The hypervolume of a run's plans between the ends that its own dense model sets, so that no other run matters."""
    bounds = [bound_of(run, axis.quantity) for axis in axes]
    ends = [(axis.scaled(b.best), axis.scaled(b.worst)) for axis, b in zip(axes, bounds, strict=True) if b]
    if len(ends) < len(axes):
        return None
    # a point may lie before the best end, where a plan is better than the dense model: so much more counts
    placed = [[(x - best) / (worst - best) for x, (best, worst) in zip(p, ends, strict=True)] for p in points]
    return hypervolume(placed, [1.0] * len(axes))


@dataclass(frozen=True)
class _Axis:
    """A quantity turned so that lower is better, and the logarithm of one that differs by factors."""

    quantity: Quantity
    logarithmic: bool

    @property
    def sign(self) -> float:
        return 1.0 if self.quantity.lower_is_better else -1.0

    def scaled(self, value: float) -> float:
        if self.logarithmic:
            value = math.log(value) if value else -math.inf
        return self.sign * value


def _axis(runs: Sequence[FinishedRun], name: str) -> _Axis:
    measured = runs[0].objectives.get(name)
    return _Axis(find_quantity(runs, name), measured is not None and is_exponential(measured))


def _default(runs: Sequence[FinishedRun], objective: str) -> tuple[str, ...]:
    known = known_quantities(runs)
    return tuple(name for name in ("parameters", SIZE) if name in known and name != objective)[:1]
