"""Measured values: one line per plan and group of token sequences, and the table they add up to."""

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.objective import Split
from searcher.contracts.plan import PrunePlan
from searcher.runs.layout import Layout, rows_wanted

WORKS = ("apart", "prepared", "preparing")
"""Fields of a line that are left out where there is nothing to tell."""


@dataclass(frozen=True)
class Work:
    """What was run: blocks, and output heads, over one window each."""

    layer_forwards: float = 0.0
    heads: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.layer_forwards + other.layer_forwards, self.heads + other.heads)

    def to_json(self) -> dict[str, float]:
        """Plain JSON values."""
        return {"layer_forwards": self.layer_forwards, "heads": self.heads}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Work":
        """The inverse of :meth:`to_json`."""
        return cls(float(content["layer_forwards"]), float(content["heads"]))


NOTHING = Work()


@dataclass(frozen=True)
class Measurement:
    """The values of one plan on some rows of one group.

    Attributes:
        split: the part of the text.
        plan: what was removed.
        group: name of the group.
        rows: which rows of it.
        values: by objective, one number for each of those rows.
        layer_forwards: run for this since the last measurement; shared prefixes count where they were run.
        heads: output heads run for this, over one window each.
        seconds: spent since the last measurement.
        run: name of the run that it was taken over from; empty if it was made for this one.
        apart: what of it was run for this plan alone, through the model itself.
        prepared: run besides, for objectives to see the dense model, since the last measurement.
        preparing: on the dense model, what preparing for this group takes, whoever has run it and how often.
    """

    split: Split
    plan: PrunePlan
    group: str
    rows: tuple[int, ...]
    values: dict[str, tuple[float, ...]]
    layer_forwards: float = 0.0
    heads: float = 0.0
    seconds: float = 0.0
    run: str = ""
    apart: Work = NOTHING
    prepared: Work = NOTHING
    preparing: Work = NOTHING

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; NaN and infinity as text, since they are results too."""
        values = {name: to_plain_json(numbers) for name, numbers in self.values.items()}
        works = {name: getattr(self, name).to_json() for name in WORKS if getattr(self, name) != NOTHING}
        return (
            {
                "split": self.split,
                "plan": str(self.plan),
                "group": self.group,
                "rows": list(self.rows),
                "values": values,
                "layer_forwards": self.layer_forwards,
                "heads": self.heads,
                "seconds": self.seconds,
            }
            | ({"run": self.run} if self.run else {})
            | works
        )

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Measurement":
        """The inverse of :meth:`to_json`. Raises AttributeError, KeyError, TypeError or ValueError on anything else."""
        rows = tuple(int(row) for row in line["rows"])
        values = {name: tuple(map(float, numbers)) for name, numbers in line["values"].items()}
        for name, numbers in values.items():
            if len(numbers) != len(rows):
                raise ValueError(f"{len(numbers)} numbers of {name} for {len(rows)} rows")
        return cls(
            split=line["split"],
            plan=PrunePlan.parse(line["plan"]),
            group=line["group"],
            rows=rows,
            values=values,
            layer_forwards=float(line["layer_forwards"]),
            heads=float(line["heads"]),
            seconds=float(line["seconds"]),
            run=str(line.get("run", "")),
            apart=_work(line, "apart"),
            prepared=_work(line, "prepared"),
            preparing=_work(line, "preparing"),
        )


def _work(line: Mapping[str, Any], name: str) -> Work:
    return Work.from_json(line[name]) if name in line else NOTHING


def to_plain_json(value: Any) -> Any:
    """The value with NaN and infinity, for which JSON has no numbers, as text that `float` reads: nan, inf, -inf."""
    if isinstance(value, Mapping):
        return {name: to_plain_json(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_json(member) for member in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def timed(lines: Iterable[Measurement]) -> Iterator[Measurement]:
    """The measurements, each with the seconds since the one before; as they are waited for, not as they were made."""
    finished = time.perf_counter()
    for line in lines:
        now = time.perf_counter()
        yield replace(line, seconds=now - finished)
        finished = now


@dataclass
class Measurements:
    """All values of a run, by split, plan and objective.

    Args:
        layout: which groups there are; says when a plan has been measured in full.
    """

    layout: Layout
    _rows: dict[tuple[Split, PrunePlan, str], dict[int, dict[str, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._wanted = {(split, g.name): set(g.objectives) for split, groups in self.layout.items() for g in groups}

    def add(self, measurement: Measurement) -> None:
        """Take in a measurement; one that lacks an objective of its group is as good as none."""
        if not self._wanted.get((measurement.split, measurement.group), set()) <= measurement.values.keys():
            return
        known = self._rows.setdefault((measurement.split, measurement.plan, measurement.group), {})
        for position, row in enumerate(measurement.rows):
            known[row] = {name: numbers[position] for name, numbers in measurement.values.items()}

    def missing(self, split: Split, plan: PrunePlan, group: str, rows: Iterable[int]) -> tuple[int, ...]:
        """Those of the rows that have not been measured."""
        known = self._rows.get((split, plan, group), {})
        return tuple(row for row in rows if row not in known)

    def rows(self, split: Split, plan: PrunePlan, objective: str) -> NDArray[np.float64]:
        """float64 (rows of all groups of this objective,): its numbers for this plan, NaN where not measured."""
        numbers = []
        for group in self.layout[split]:
            if objective in group.objectives:
                known = self._rows.get((split, plan, group.name), {})
                numbers += [known.get(row, {}).get(objective, math.nan) for row in range(group.rows)]
        return np.array(numbers)

    def covers(self, split: Split, plan: PrunePlan, windows: Collection[int] | None) -> bool:
        """Whether every row on these windows (None: on all), and of own inputs, has been measured for this plan."""
        groups = self.layout[split]
        return not any(
            self.missing(split, plan, group.name, wanted)
            for group, wanted in zip(groups, rows_wanted(groups, windows), strict=True)
        )

    def complete(self, split: Split, plan: PrunePlan) -> bool:
        """Whether every row of every group of the split has been measured for this plan."""
        return self.covers(split, plan, None)

    def lacking(self, split: Split, plan: PrunePlan) -> str:
        """An objective of which not every number on the split is known for this plan; empty if there is none."""
        for group in self.layout[split]:
            known = self._rows.get((split, plan, group.name), {})
            for name in group.objectives:
                if any(name not in known.get(row, ()) for row in range(group.rows)):
                    return name
        return ""

    def plans(self, split: Split) -> tuple[PrunePlan, ...]:
        """The plans measured in full on this split, sorted."""
        return tuple(sorted(self.in_order(split)))

    def in_order(self, split: Split) -> tuple[PrunePlan, ...]:
        """The same plans in the order in which measuring them began."""
        seen = dict.fromkeys(plan for s, plan, _ in self._rows if s == split)
        return tuple(plan for plan in seen if self.complete(split, plan))
