"""Which token sequences are run together in a run, and what is measured on each such group."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from searcher.contracts.objective import Split

WINDOWS_GROUP = "windows:"
"""How the names of the groups of text windows begin."""
PLAN_GROUP = "plan"
"""How the names of the groups begin that replay nothing."""


class GroupKind(Enum):
    """What a group holds: text windows, inputs that an objective brings itself, or nothing, where the plan is read."""

    WINDOWS = auto()
    INPUTS = auto()
    PLAN = auto()


def group_kind(name: str) -> GroupKind:
    """The kind of the group of this name, as names are kept in run folders."""
    if name.startswith(WINDOWS_GROUP):
        return GroupKind.WINDOWS
    return GroupKind.PLAN if name.partition(":")[0] == PLAN_GROUP else GroupKind.INPUTS


@dataclass(frozen=True)
class GroupLayout:
    """Token sequences that are run together.

    Attributes:
        name: `windows:0`, `windows:1`, … in window order; `accuracy:0`, … for own inputs; `plan`, `plan:latency`.
        rows: how many numbers are measured on it: one a sequence, or as many items as an objective says.
        objectives: names of the objectives measured on them.
    """

    name: str
    rows: int
    objectives: tuple[str, ...]

    @property
    def kind(self) -> "GroupKind":
        """What is in it."""
        return group_kind(self.name)


Layout = dict[Split, tuple[GroupLayout, ...]]
"""The groups of each split, in order."""


def layout_to_json(layout: Layout) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        split: [{"name": g.name, "rows": g.rows, "objectives": list(g.objectives)} for g in groups]
        for split, groups in layout.items()
    }


def layout_from_json(content: Mapping[Split, Any]) -> Layout:
    """The inverse of :func:`layout_to_json`."""
    return {
        split: tuple(GroupLayout(g["name"], g["rows"], tuple(g["objectives"])) for g in groups)
        for split, groups in content.items()
    }


def rows_wanted(groups: Iterable[GroupLayout], windows: Collection[int] | None) -> Iterator[list[int]]:
    """The rows of each group: those of the windows with these numbers (None: all of them), own inputs whole."""
    first = 0  # number of the group's first window
    for group in groups:
        if windows is None or group.kind is not GroupKind.WINDOWS:
            yield list(range(group.rows))
        else:
            yield [row for row in range(group.rows) if first + row in windows]
            first += group.rows
