"""The CSV files of the study, read again; nothing else is known to the pages that are made of them."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searcher.errors import UsageError
from study.records import CERTIFICATES, ROWS, SEARCHES, SETTING, WINDOWS, Certificate, Found


@dataclass(frozen=True)
class Tables:
    """The tables in a folder.

    Raises:
        UsageError: one is missing or damaged.
    """

    folder: Path

    @cached_property
    def searches(self) -> tuple[Found, ...]:
        """All searches."""
        return tuple(_read(self.folder / SEARCHES, Found))

    @cached_property
    def certificates(self) -> tuple[Certificate, ...]:
        """What was measured whole."""
        return tuple(_read(self.folder / CERTIFICATES, Certificate))

    @cached_property
    def rows(self) -> dict[tuple[str, str, str], NDArray[np.float64]]:
        """Numbers of plans on unseen text, by text, measure and plan."""
        return {
            (row["text"], row["measure"], row["plan"]): np.array(row["values"].split(), dtype=np.float64)
            for row in _lines(self.folder / ROWS)
        }

    @cached_property
    def documents(self) -> dict[str, tuple[int, ...]]:
        """By text, the document that each report window was cut from."""
        found: dict[str, list[int]] = {}
        for row in _lines(self.folder / WINDOWS):
            found.setdefault(row["text"], []).append(int(row["document"]))
        return {text: tuple(documents) for text, documents in found.items()}

    @cached_property
    def dtype(self) -> str:
        """What the model ran in."""
        path = self.folder / SETTING
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["dtype"])
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{path} does not tell the dtype of the model", "Run `make study`") from error

    def of(self, **fields: Any) -> list[Found]:
        """The searches whose fields have these values."""
        return [one for one in self.searches if all(getattr(one, name) == value for name, value in fields.items())]

    def values(self, text: str, measure: str, plan: str) -> NDArray[np.float64]:
        """The numbers of a plan.

        Raises:
            UsageError: the plan was not measured so.
        """
        if (text, measure, plan) not in self.rows:
            raise UsageError(
                f"{self.folder / ROWS} has no {measure} of plan {plan} on {text}", "Run the study again; it resumes"
            )
        return self.rows[text, measure, plan]

    def mean(self, text: str, measure: str, plan: str) -> float:
        """Their mean."""
        return float(self.values(text, measure, plan).mean())


def _read(path: Path, kind: Callable[..., Any]) -> Iterator[Any]:
    types = kind.__annotations__
    for row in _lines(path):
        yield kind(**{name: types[name](value) for name, value in row.items()})


def _lines(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})", "Run `make study`") from error
