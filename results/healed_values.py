"""Values of a plan that was healed in several ways, on all report windows or on those of one text."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.finished_run import Estimate
from results.intervals import interval
from results.table import estimate, number
from searcher.contracts.objective import Objective

Rows = Mapping[str, NDArray[np.float64]]
"""An objective's numbers on the report split, by its label."""


class ReportValues:
    """What plans are worth on some of the report windows.

    Args:
        objectives: by label.
        documents: of each report window, the document it was cut from.
        places: of the windows; None for all, and then also for what is measured on no windows.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        documents: Sequence[int],
        places: NDArray[np.int64] | None = None,
    ) -> None:
        self._documents, self._places = np.array(documents), places
        self.objectives = {label: one for label, one in objectives.items() if places is None or one.reads == "windows"}

    def estimates(self, rows: Rows) -> dict[str, Estimate]:
        """The value of each objective with its 95% interval."""
        return {label: self._estimate(label, rows) for label in self.objectives}

    def ratios(self, rows: Rows, control: Rows) -> dict[str, float | None]:
        """Of each objective, the plan's value to that of the dense model; None where that is no number."""
        values = {label: (self._value(label, rows), self._value(label, control)) for label in self.objectives}
        ratios = {label: of_plan / dense if dense else math.nan for label, (of_plan, dense) in values.items()}
        return {label: ratio if math.isfinite(ratio) else None for label, ratio in ratios.items()}

    def headers(self) -> Iterator[str]:
        """Of the columns of :meth:`cells`."""
        for label in self.objectives:
            yield from (f"report {label} (95% interval)", f"dense {label}, healed the same", "to that")

    def cells(self, rows: Rows, control: Rows) -> Iterator[str]:
        """Of each objective the value, that of the dense model, and the ratio of both."""
        ratios = self.ratios(rows, control)
        for label in self.objectives:
            yield estimate(self._estimate(label, rows))
            yield number(self._value(label, control))
            yield "-" if (ratio := ratios[label]) is None else f"{ratio:.2f}x"

    def _value(self, label: str, rows: Rows) -> float:
        return self.objectives[label].value(self._of(rows[label]))

    def _estimate(self, label: str, rows: Rows) -> Estimate:
        objective = self.objectives[label]
        of_windows = objective.reads == "windows"
        documents = self._of(self._documents).tolist() if of_windows else None
        return Estimate(self._value(label, rows), *interval(objective, self._of(rows[label]), documents))

    def _of(self, values: NDArray[Any]) -> NDArray[Any]:
        return values if self._places is None else values[self._places]
