"""What a comparison of runs holds, size by size, and how a gap is written."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

from results.finished_run import Evaluation, FinishedRun
from results.intervals import Gap
from searcher.contracts.plan import Granularity, PrunePlan, Unit


@dataclass(frozen=True)
class Entry:
    """What a run chose for a size, against the reference.

    Attributes:
        run: the run.
        label: what it is called here.
        evaluation: the plan it chose on the search split.
        search_gap: to the reference's plan on the search split; exact but for rounding, so without an interval. None
            where the run chose on other search windows than the reference.
        report_gap: the same on the report split, in pairs.
        kept: units that its plan keeps and the reference's removes.
        removed: the other way round.
        better: whether it is better on the search split by more than rounding explains.
        rounded: whether rounding explains the search gap to another plan, see :mod:`results.rounding`.
    """

    run: FinishedRun
    label: str
    evaluation: Evaluation
    search_gap: Gap | None
    report_gap: Gap
    kept: tuple[Unit, ...]
    removed: tuple[Unit, ...]
    better: bool
    rounded: bool

    @property
    def same(self) -> bool:
        """Whether it is the reference's plan."""
        return not (self.kept or self.removed)


@dataclass(frozen=True)
class Optimum:
    """The best of all plans of a size on the search split, as a run that measured all of them has certified.

    Attributes:
        plan: the best plan.
        plans: how many there are in the space of that run.
        whole: whether these are all plans of this size that the model has; false where that run had to keep some units.
        gap: from the reference's plan to it, on the search split.
        rounded: whether rounding explains that gap.
    """

    plan: PrunePlan
    plans: int
    whole: bool
    gap: Gap
    rounded: bool


@dataclass(frozen=True)
class SizeComparison:
    """All runs at one size, the reference first.

    Attributes:
        size: removed units.
        entries: of the runs that have a plan of this size.
        best: the best of those better than the reference on the search split, if there are any.
        optimum: where it is known.
        verdict: what follows, in a sentence.
    """

    size: int
    entries: tuple[Entry, ...]
    best: Entry | None
    optimum: Optimum | None
    verdict: str


@dataclass(frozen=True)
class Section:
    """The runs of one granularity; sizes mean nothing across.

    Attributes:
        granularity: of the runs.
        reference: the run that the others are compared with.
        label: what it is called here.
        sizes: that the reference and another run have a plan of, ascending.
    """

    granularity: Granularity
    reference: FinishedRun
    label: str
    sizes: tuple[SizeComparison, ...]


def alike(section: Section, say: Callable[[SizeComparison], str]) -> Iterator[tuple[list[int], str]]:
    """What is said of each size; sizes next to one another of which the same is said are given together."""
    numbered = enumerate(section.sizes)
    for (said, _), group in groupby(numbered, key=lambda pair: (say(pair[1]), pair[1].size - pair[0])):
        yield [size.size for _, size in group], said


def show_gap(found: Gap | None) -> str:
    """Such as `-13.4% (-20.1% to -5.8%)`, or `+0.03 (-0.01 to +0.07; p 0.21)` where McNemar's exact test was made.

    Of plans chosen on other windows: nothing.
    """
    if found is None:
        return "other windows"

    def number(value: float) -> str:
        if not math.isfinite(value):  # a plan breaks the model, or both do
            return "-" if math.isnan(value) else f"{value:+}"
        return f"{value:+.1%}" if found.relative else f"{value:+.3g}"

    if found.low is None or found.high is None:
        return number(found.value)
    tested = "" if found.p is None else f"; p {found.p:.2g}"
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)}{tested})"


def show_search_gap(entry: Entry) -> str:
    """As :func:`show_gap`, with a remark where rounding explains it."""
    return f"{show_gap(entry.search_gap)}{' (rounding)' if entry.rounded else ''}"
