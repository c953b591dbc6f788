"""Runs side by side: for each size, which plan each run chose, and how far it is from the reference's.

The reference is greedy where there is a greedy run. The *search gap* is exact but for rounding: one plan that is better
by more on the fixed search windows proves that the reference's is not the best there. The *report gap* is measured on
text that no plan was chosen by, in pairs, and has an interval.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from results.comparable import check_comparable, common_objectives, different_machines, other_goals, same_search
from results.finished_run import Evaluation, FinishedRun
from results.intervals import Gap, gap
from results.joint_front import JointFront, joint_front
from results.labels import run_labels, windows
from results.methods import MethodGap, method_gaps
from results.rounding import is_rounding
from results.side_by_side import Entry, Optimum, Section, SizeComparison
from results.verdicts import verdict
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError, did_you_mean


class ComparedRuns:
    """Finished runs of the same model and text, side by side.

    Args:
        runs: two or more.
        objective: label of the objective to compare by; by default the first that all have measured.
        reference: folder of the run to compare with; by default that of strategy `greedy` (of several the one with most
            sizes), else the first, of each granularity.

    Attributes:
        labels: what each run is called, by its folder.

    Raises:
        UsageError: the runs are not comparable, with the field that differs; or no run has this objective or folder.
    """

    def __init__(self, runs: Sequence[FinishedRun], objective: str | None = None, reference: str | None = None) -> None:
        if len(runs) < 2:
            raise UsageError("There is nothing to compare in one run", "Name two runs or more")
        check_comparable(runs, other_search=True)
        known = common_objectives(runs)
        if objective is not None and objective not in known:
            raise UsageError(
                f"Not all of these runs have measured '{objective}'",
                f"{did_you_mean(objective, known)}All of them have {', '.join(known)}",
            )
        self.runs = tuple(runs)
        self.objective = objective or known[0]
        self.labels = dict(zip([run.folder for run in runs], run_labels(runs), strict=True))
        self._named = None if reference is None else self._find(reference)

    def _find(self, reference: str) -> FinishedRun:
        found = [run for run in self.runs if Path(reference) == run.folder or reference == run.folder.name]
        if not found:
            names = [run.folder.name for run in self.runs]
            raise UsageError(
                f"The reference '{reference}' is none of the runs",
                f"{did_you_mean(reference, names)}Choose one of them",
            )
        return found[0]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know who would think the runs differ in their strategy only."""
        searched = other_goals(self.runs, [self.labels[run.folder] for run in self.runs], self.objective)
        return (*different_machines(self.runs), *searched, *self._other_windows(), *self._references())

    def _other_windows(self) -> Iterator[str]:
        """Which runs chose their plans on other search windows than the reference."""
        for section in self.sections:
            for run in self.runs:
                if run.config.granularity is section.granularity and not same_search(section.reference, run):
                    chosen_on = f"{windows(run, 'search')}, data seed {run.record['identity']['data_seed']}"
                    yield (
                        f"{self.labels[run.folder]} chose on {chosen_on}, not on those of {section.label}: they can be "
                        "compared on the report windows alone."
                    )

    def _references(self) -> Iterator[str]:
        """Where greedy is not the reference, though nobody said so; and runs that stand alone."""
        for section in self.sections:
            if section.reference.config.strategy != "greedy" and section.reference is not self._named:
                yield (
                    f"No run of granularity {section.granularity} is greedy: the others are compared with "
                    f"{section.label}."
                )
            if missing := self._sizes_without(section.reference):
                yield f"{section.label} has no plan of size {', '.join(map(str, missing))}: it is not compared there."
        shown = {section.granularity for section in self.sections}
        for run in self.runs:
            if run.config.granularity not in shown:
                label = self.labels[run.folder]
                yield (
                    f"{label} is the only run of granularity {run.config.granularity}: there is nothing to compare its "
                    "sizes with."
                )

    def _sizes_without(self, reference: FinishedRun) -> list[int]:
        """Sizes that another run of its granularity has a plan of, and the reference has not."""
        others = [run for run in self.runs if run.config.granularity is reference.config.granularity]
        return sorted({e.size for run in others for e in run.chosen} - {e.size for e in reference.chosen})

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The runs by granularity, where there are two or more of one."""
        granularities = dict.fromkeys(run.config.granularity for run in self.runs)
        grouped = {g: [run for run in self.runs if run.config.granularity is g] for g in granularities}
        return tuple(self._section(g, members) for g, members in grouped.items() if len(members) > 1)

    def _section(self, granularity: Granularity, runs: list[FinishedRun]) -> Section:
        greedy = sorted((run for run in runs if run.config.strategy == "greedy"), key=lambda run: -len(run.chosen))
        named = [run for run in runs if run is self._named]
        reference = [*named, *greedy, *runs][0]
        ordered = [reference, *(run for run in runs if run is not reference)]
        sizes = (self._size(ordered, chosen.size) for chosen in reference.chosen)
        label = self.labels[reference.folder]
        return Section(granularity, reference, label, tuple(size for size in sizes if len(size.entries) > 1))

    def _size(self, runs: list[FinishedRun], size: int) -> SizeComparison:
        chosen = [(run, e) for run in runs for e in run.chosen if e.size == size]
        entries = tuple(self._entry(chosen[0], one) for one in chosen)
        better = [
            (entry.search_gap.value * self._sign, entry) for entry in entries if entry.search_gap and entry.better
        ]
        best = min(better, key=lambda pair: pair[0], default=(0.0, None))[1]
        optimum = self._optimum(chosen[0], [run for run, _ in chosen], size)
        return SizeComparison(size, entries, best, optimum, verdict(entries, best, self.objective, self._sign))

    def _entry(self, reference: tuple[FinishedRun, Evaluation], one: tuple[FinishedRun, Evaluation]) -> Entry:
        run, evaluation = one
        here, there = (set(e.plan.units(run.config.granularity)) for e in (evaluation, reference[1]))
        searched = self._search_gap(reference, one) if same_search(reference[0], run) else None
        rounded = searched is not None and here != there and self._is_rounding(reference, one)
        return Entry(
            run,
            self.labels[run.folder],
            evaluation,
            searched,
            self._gap("report", reference, one),
            tuple(sorted(there - here)),
            tuple(sorted(here - there)),
            searched is not None and not rounded and self._is_better(searched.value),
            rounded,
        )

    def _search_gap(self, reference: tuple[FinishedRun, Evaluation], one: tuple[FinishedRun, Evaluation]) -> Gap:
        """Without an interval: the search windows are all there are."""
        return replace(self._gap("search", reference, one), low=None, high=None)

    def _is_rounding(self, reference: tuple[FinishedRun, Evaluation], one: tuple[FinishedRun, Evaluation]) -> bool:
        """Whether rounding explains the gap on the search windows."""
        values = [run.measurements.rows("search", e.plan, self.objective) for run, e in (one, reference)]
        objective, dtype = reference[0].objectives[self.objective], reference[0].record["identity"]["dtype"]
        return is_rounding(objective, dtype, values[0], values[1])

    def _gap(self, split: Any, reference: tuple[FinishedRun, Evaluation], one: tuple[FinishedRun, Evaluation]) -> Gap:
        rows = [run.measurements.rows(split, e.plan, self.objective) for run, e in (one, reference)]
        run = reference[0]
        return gap(run.objectives[self.objective], rows[0], rows[1], run.documents(split, self.objective))

    def _is_better(self, difference: float) -> bool:
        lower = self.runs[0].objectives[self.objective].lower_is_better
        return difference < -1e-12 if lower else difference > 1e-12

    def _optimum(self, reference: tuple[FinishedRun, Evaluation], runs: list[FinishedRun], size: int) -> Optimum | None:
        """That of the widest space, if several runs have one."""
        optima = [found for run in runs if (found := self._certified(reference, run, size))]
        return max(optima, key=lambda optimum: optimum.plans, default=None)

    def _certified(self, reference: tuple[FinishedRun, Evaluation], run: FinishedRun, size: int) -> Optimum | None:
        found = run.outcome["notes"].get("certificates", {}).get(str(size))
        if not found or not found["complete"] or run.config.searched[0] != self.objective or run.config.weight:
            return None
        if run.config.robust != "mean":  # the least of something else
            return None
        if not same_search(reference[0], run):
            return None
        best = run.evaluation(PrunePlan.parse(found["best"][0]["plan"]))
        units = run.record["num_blocks"] * (2 if run.config.granularity is Granularity.SUBLAYER else 1)
        whole = found["plans"] == math.comb(units, size)
        one = (run, best)
        searched, rounded = self._search_gap(reference, one), self._is_rounding(reference, one)
        return Optimum(best.plan, found["plans"], whole, searched, rounded)

    @property
    def _sign(self) -> int:
        return 1 if self.runs[0].objectives[self.objective].lower_is_better else -1

    @cached_property
    def methods(self) -> tuple[MethodGap, ...]:
        """What is the same search but for chance, against the reference's, where both have several data seeds."""
        return tuple(
            found
            for section in self.sections
            for found in method_gaps(
                [run for run in self.runs if run.config.granularity is section.granularity],
                section.reference,
                self.objective,
            )
        )

    def front(self, *others: str) -> JointFront | None:
        """The chosen plans of all runs on one front of the objective and others; see :func:`joint_front`."""
        if not all(same_search(self.runs[0], run) for run in self.runs):
            return None  # its values are those of the search windows
        return joint_front(self.runs, self.objective, *others)
