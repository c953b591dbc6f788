"""A piece of measuring: some plans on some rows of a group, of which the end can be taken away by somebody idle."""

import threading
from collections.abc import Collection, Iterator, Sequence

from searcher.contracts.objective import Split
from searcher.contracts.plan import PrunePlan
from searcher.contracts.trie import depth_first, plan_path
from searcher.evaluation.ends import Ends
from searcher.evaluation.groups import Group
from searcher.runs.layout import rows_wanted
from searcher.runs.measurement import Measurements


class Job:
    """Plans to measure on some rows of a group.

    Args:
        split: the part of the text.
        group: the token sequences.
        rows: which of them.
        plans: in the order in which they share most, as :func:`make_jobs` gives them.
        ends: where the plans have been taken through the blocks already, their states after the last one.
    """

    def __init__(
        self,
        split: Split,
        group: Group,
        rows: tuple[int, ...],
        plans: Sequence[PrunePlan],
        ends: Ends | None = None,
    ) -> None:
        self.split, self.group, self.rows, self.ends = split, group, rows, ends
        self.plans = list(plans)
        self._begun = 0
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """How many plans have not been begun."""
        return len(self.plans) - self._begun

    def begin(self, count: int) -> int:
        """Begin so many more plans; how many there were to begin."""
        with self._lock:
            count = min(count, self.left)
            self._begun += count
            return count

    def give_back(self) -> "Job | None":
        """A new job with the last half of the plans that have not been begun, which this one then leaves alone."""
        with self._lock:
            taken = (self.left + 1) // 2
            if not taken:
                return None
            rest = self.plans[-taken:]
            del self.plans[-taken:]
        return Job(self.split, self.group, self.rows, rest, self.ends)


def make_jobs(
    split: Split,
    groups: Sequence[Group],
    plans: Sequence[PrunePlan],
    known: Measurements,
    windows: Collection[int] | None,
    num_blocks: int,
) -> Iterator[Job]:
    """What is to be done to know these plans: a job for each group and set of its rows that is missing.

    Args:
        split: the part of the text.
        groups: all groups of the split.
        plans: distinct plans.
        known: what has been measured.
        windows: numbers of the windows that are wanted; None for all. Own inputs are always wanted whole.
        num_blocks: of the model.
    """
    for group, wanted in zip(groups, rows_wanted((g.layout for g in groups), windows), strict=True):
        todo: dict[tuple[int, ...], list[PrunePlan]] = {}
        for plan in plans:
            if missing := known.missing(split, plan, group.layout.name, wanted):
                todo.setdefault(missing, []).append(plan)
        for rows, members in todo.items():
            order = depth_first([plan_path(plan, num_blocks) for plan in members])
            yield Job(split, group, rows, [members[index] for index in order])
