"""What a search is for: measured values turned into what a strategy minimises, and bounds for the final plan."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.objective import Objective
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.notation import parse_bound
from searcher.search.robust import WorstText

PENALTY = 10.0
"""What a plan of full size is charged for missing a bound by its whole width, in multiples of the dense model's score:
so much that a search turns away from it, and so little that the nearest miss still looks best."""


@dataclass(frozen=True)
class Bound:
    """What an objective's value must keep to.

    Attributes:
        label: of the objective.
        text: as the user wrote it.
        limit: the value that must not be passed.
        upper: whether it is an upper bound.
    """

    label: str
    text: str
    limit: float
    upper: bool

    def excess(self, value: float) -> float:
        """By how much the value misses the bound, relative to it; 0 if it keeps to it, infinity if it is no number."""
        return max(0.0, self.distance(value))

    def distance(self, value: float) -> float:
        """The same, but negative by how much there is to spare if it keeps to it."""
        if math.isnan(value):
            return math.inf
        missing = value - self.limit if self.upper else self.limit - value
        return missing / (abs(self.limit) or 1.0) - 1e-9

    def __str__(self) -> str:
        return f"--at-{'most' if self.upper else 'least'} {self.label}={self.text}"


@dataclass(frozen=True)
class Goals:
    """What a search is for.

    Attributes:
        objectives: all that are measured, by label; those searched for come first.
        labels: of those searched for.
        weights: by label, if it is a weighted sum that is searched for; empty if it is each by itself.
        dense: the dense model's score of each objective, see :func:`additive`.
        bounds: for plans of the full size.
        worst: scores what reads windows by its worst text; None for the mean over all windows.
    """

    objectives: Mapping[str, Objective]
    labels: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    dense: Mapping[str, float] = field(default_factory=dict)
    bounds: tuple[Bound, ...] = ()
    worst: WorstText | None = None

    @property
    def columns(self) -> int:
        """How many numbers a strategy is told for each plan."""
        return 1 if self.weights else len(self.labels)

    @property
    def size_counts(self) -> bool:
        """Whether the number of removed units is a goal too: no objective searched for says how much is left."""
        return not any(self.objectives[label].says_size for label in self.labels)

    def scores(
        self, rows: Mapping[str, NDArray[np.float64]], windows: Sequence[int], full_size: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What a strategy is told of a plan, lower is better.

        Args:
            rows: the plan's numbers by objective; of those that read windows, one for each search window.
            windows: the windows that were asked about.
            full_size: whether the plan must keep to the bounds, on these windows; one that does not is charged.

        Returns:
            float64 (columns,): the additive score of each objective, or their weighted sum; and float64 (columns,
            windows asked about): the same by window, NaN where a score is no mean over windows.
        """
        parts = [self._of(label, rows[label], windows) for label in self.labels]
        values = np.array([value for value, _ in parts])
        by_window = np.stack([of_windows for _, of_windows in parts])
        if self.weights:
            weights = np.array([self.weights.get(label, 0.0) / self._scale(label) for label in self.labels])
            used = weights > 0
            steady = np.where(np.isnan(by_window), values[:, None], by_window)  # the same on every window
            values, by_window = weights[used] @ values[used], weights[used] @ steady[used]
            values, by_window = values.reshape(1), by_window.reshape(1, -1)
            if self.worst is not None:
                by_window = np.full_like(by_window, np.nan)
        if full_size and self.bounds:
            charged, of_windows = self._charged(rows, windows)
            values, by_window = values + charged * self._scales, by_window + of_windows * self._scales[:, None]
        return np.where(np.isnan(values), np.inf, values), by_window

    def charges(
        self, rows: Mapping[str, NDArray[np.float64]], windows: Sequence[int], full_size: bool
    ) -> NDArray[np.float64]:
        """What each bound on an objective that reads windows adds to the first score, by window.

        Args:
            rows: as for :meth:`scores`.
            windows: those asked about.
            full_size: whether the plan must keep to the bounds.

        Returns:
            float64 (such bounds, windows asked about): a plan is charged for the mean of a row, if it is positive.
        """
        distances = [self._distances(bound, rows, windows) for bound in self.window_bounds]
        found: NDArray[np.float64] = PENALTY * self._scales[0] * np.array(distances).reshape(-1, len(windows))
        return found if full_size else np.zeros_like(found)

    @property
    def window_bounds(self) -> tuple[Bound, ...]:
        """The bounds on objectives that read windows, so that windows not yet measured may change what is charged."""
        return tuple(bound for bound in self.bounds if self.objectives[bound.label].reads == "windows")

    def score(self, label: str, rows: Mapping[str, NDArray[np.float64]]) -> float:
        """A plan's score for one objective on all windows, without any penalty; see :func:`additive`."""
        return self._of(label, rows[label], range(len(rows[label])))[0]

    def excess(self, rows: Mapping[str, NDArray[np.float64]], windows: Sequence[int] | None = None) -> float:
        """By how much a plan with these numbers misses its bounds on these windows (by default all); 0 for none."""
        return sum(bound.excess(self._value(bound.label, rows, windows)) for bound in self.bounds)

    def missed(self, rows: Mapping[str, NDArray[np.float64]]) -> list[str]:
        """The bounds that a plan with these numbers misses, as text."""
        values = [self.objectives[bound.label].value(rows[bound.label]) for bound in self.bounds]
        pairs = zip(self.bounds, values, strict=True)
        return [f"{bound} (it has {value:.4g})" for bound, value in pairs if bound.excess(value)]

    def _charged(
        self, rows: Mapping[str, NDArray[np.float64]], windows: Sequence[int]
    ) -> tuple[float, NDArray[np.float64]]:
        """The penalty, and float64 (windows,) whose mean it is: relative to the dense model's score."""
        missed = [b for b in self.bounds if b.excess(self._value(b.label, rows, windows))]
        by_window = sum((self._distances(bound, rows, windows) for bound in missed), np.zeros(len(windows)))
        return PENALTY * self.excess(rows, windows), PENALTY * by_window

    def _distances(
        self, bound: Bound, rows: Mapping[str, NDArray[np.float64]], windows: Sequence[int]
    ) -> NDArray[np.float64]:
        """float64 (windows,): the distance of a plan from a bound by window; the mean is that on all of these windows.

        Where the value is no mean over windows, as a perplexity, those of single windows are moved to that mean.
        """
        distance = bound.distance(self._value(bound.label, rows, windows))
        if self.objectives[bound.label].reads != "windows":
            return np.full(len(windows), distance)
        alone = np.array([bound.distance(self._value(bound.label, rows, [window])) for window in windows])
        if not np.isfinite([distance, *alone]).all():
            return np.full(len(windows), distance)
        return np.asarray(alone + (distance - alone.mean()))

    def _value(self, label: str, rows: Mapping[str, NDArray[np.float64]], windows: Sequence[int] | None) -> float:
        """The objective's value on these windows, by default on all."""
        objective, numbers = self.objectives[label], rows[label]
        some = windows is not None and objective.reads == "windows"
        return objective.value(numbers[list(windows or ())] if some else numbers)

    @property
    def _scales(self) -> NDArray[np.float64]:
        """float64 (columns,): what a penalty is relative to."""
        return np.ones(1) if self.weights else np.array([self._scale(label) for label in self.labels])

    def _of(self, label: str, rows: NDArray[np.float64], windows: Sequence[int]) -> tuple[float, NDArray[np.float64]]:
        objective = self.objectives[label]
        if objective.reads != "windows":
            return additive(objective, rows), np.full(len(windows), np.nan)
        if self.worst is not None:
            return self.worst.score(label, objective, rows, windows), np.full(len(windows), np.nan)
        asked = rows[list(windows)]
        return additive(objective, asked), objective.turned(asked)

    def _scale(self, label: str) -> float:
        """The size of the dense model's score; 1 where that is nothing, as for a divergence from itself."""
        return abs(self.dense.get(label, 0.0)) or 1.0


def additive(objective: Objective, rows: NDArray[np.float64]) -> float:
    """A plan's score for one objective: the mean over items, lower is better, `inf` if the plan breaks the model."""
    score = objective.turned(float(np.mean(objective.items(rows))))
    return score if np.isfinite(score) else np.inf


def check_bounds(config: RunConfig, objectives: Mapping[str, Objective]) -> None:
    """Refuse a bound on the side where an objective is better.

    Raises:
        UsageError: there is one.
    """
    for flag, labels, wanted in (("most", config.at_most, True), ("least", config.at_least, False)):
        for label in labels:
            if objectives[label].lower_is_better is not wanted:
                better, other = ("lower", "most") if objectives[label].lower_is_better else ("higher", "least")
                raise UsageError(
                    f"--at-{flag} {label}: a {better} {label} is better, so that this bounds nothing",
                    f"Write --at-{other} {label}={labels[label]}",
                )


def make_goals(
    config: RunConfig,
    objectives: Mapping[str, Objective],
    dense: Mapping[str, NDArray[np.float64]],
    texts: Sequence[int] = (),
) -> Goals:
    """What the configuration searches for, given the dense model's numbers on the search split.

    Args:
        config: of the run.
        objectives: all that are measured, by label.
        dense: the dense model's numbers, by label.
        texts: the number of the text that each search window is of, if there are several.
    """
    worst = None if config.robust == "mean" else WorstText(np.array(texts, dtype=np.int64), dense)
    scores = {label: additive(objective, dense[label]) for label, objective in objectives.items()}
    bounds = [
        _bound(label, text, objectives[label].value(dense[label]), upper)
        for texts, upper in ((config.at_most, True), (config.at_least, False))
        for label, text in texts.items()
    ]
    return Goals(objectives, config.searched, config.weight, scores, tuple(bounds), worst)


def _bound(label: str, text: str, dense: float, upper: bool) -> Bound:
    number, relative = parse_bound(label, text)
    return Bound(label, text, number * dense if relative else number, upper)
