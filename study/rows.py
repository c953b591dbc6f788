"""The numbers of plans window by window and item by item, kept so that nothing is measured twice."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.plan import PrunePlan
from searcher.runs.journal import write_json

Key = tuple[str, str, str]
"""Text, measure (`loss`, `kl` or `accuracy`, or one of them `after` a healing), and plan."""


@dataclass(frozen=True)
class Rows:
    """A file of numbers by text, measure and plan.

    Attributes:
        path: a JSON file, read again when the study is resumed.
        known: the numbers.
    """

    path: Path
    known: dict[Key, list[float]]

    @classmethod
    def open(cls, path: Path) -> "Rows":
        """Those that are kept already."""
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
        return cls(path, {(row["text"], row["measure"], row["plan"]): row["values"] for row in kept["rows"]})

    def lacking(self, text: str, measure: str, plans: Iterable[PrunePlan]) -> list[PrunePlan]:
        """The plans that have not been measured so, each once."""
        return [plan for plan in dict.fromkeys(plans) if (text, measure, str(plan)) not in self.known]

    def add(self, text: str, measure: str, plan: PrunePlan, values: Sequence[float] | NDArray[np.float64]) -> None:
        """Remember the numbers of a plan; `keep` writes them."""
        self.known[text, measure, str(plan)] = [float(value) for value in values]

    def keep(self) -> None:
        """Write all of them."""
        rows = [{"text": t, "measure": m, "plan": p, "values": v} for (t, m, p), v in self.known.items()]
        write_json(self.path, {"rows": rows})

    def __iter__(self) -> Iterator[tuple[Key, list[float]]]:
        return iter(self.known.items())
