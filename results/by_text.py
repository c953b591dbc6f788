"""What the chosen plan of a run is worth on each of its texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.finished_run import Estimate, FinishedRun
from results.intervals import interval
from searcher.contracts.objective import Split
from searcher.contracts.plan import PrunePlan


@dataclass(frozen=True)
class OneText:
    """Values on the report windows of one text, each with the interval over these.

    Attributes:
        name: of the text.
        windows: how many of the report windows are of it.
        dense: value of each objective that reads windows, of the dense model.
        best: the same of the run's chosen plan of the full size.
        healed: the same of that plan healed, where the run has measured it so.
    """

    name: str
    windows: int
    dense: dict[str, Estimate]
    best: dict[str, Estimate]
    healed: dict[str, Estimate] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        content: dict[str, Any] = {"text": self.name, "windows": self.windows}
        for kind in ("dense", "best", "healed"):
            if (values := getattr(self, kind)) is not None:
                content[kind] = {label: vars(estimate) for label, estimate in values.items()}
        return content


def by_text(run: FinishedRun) -> tuple[OneText, ...]:
    """The values by text, in the order of the run; none if all windows are of one text."""
    return tuple(_by_text(run))


def _by_text(run: FinishedRun) -> Iterator[OneText]:
    texts = np.array(run.texts("report"), dtype=np.int64)
    for number, name in enumerate(run.text_names if len(texts) else ()):
        places = np.flatnonzero(texts == number)
        healed = _values(run, "healed-report", run.best.plan, places) if run.best.healed else None
        dense, best = (_values(run, "report", plan, places) for plan in (PrunePlan(), run.best.plan))
        yield OneText(name, len(places), dense, best, healed)


def _values(run: FinishedRun, split: Split, plan: PrunePlan, places: Any) -> dict[str, Estimate]:
    found = {}
    for label, objective in run.objectives.items():
        if objective.reads == "windows":
            rows = run.measurements.rows(split, plan, label)[places]
            documents = run.documents("report", label)
            own = None if documents is None else [documents[place] for place in places]
            found[label] = Estimate(objective.value(rows), *interval(objective, rows, own))
    return found
