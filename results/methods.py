"""Runs by method: what the same search does on several choices of search windows, against another one's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.finished_run import FinishedRun
from results.intervals import Gap
from results.labels import run_labels
from results.two_way import procedure_gap
from searcher.contracts.plan import Granularity

CHANCE = ("data_seed", "seed")
"""Fields of the identity of a run that are drawn, not chosen; nor do fingerprints count, which follow from them."""
LIMITS = ("max_evaluations", "max_cost", "timeout")


@dataclass(frozen=True)
class Method:
    """Runs that differ in chance alone.

    Attributes:
        label: what it is called here.
        runs: by data seed; of several with one, that of the least seed.
    """

    label: str
    runs: dict[int, FinishedRun]


@dataclass(frozen=True)
class MethodGap:
    """A method against another at one size, over the data seeds that both have.

    Attributes:
        granularity: of both.
        size: removed units.
        method: what the one is called.
        reference: what the other is called.
        data_seeds: over which the mean is taken, ascending.
        gap: on the report split; its interval takes the choice of search windows and the documents as random.
    """

    granularity: Granularity
    size: int
    method: str
    reference: str
    data_seeds: tuple[int, ...]
    gap: Gap


def group_methods(runs: Sequence[FinishedRun]) -> dict[str, Method]:
    """The methods of some runs by what they have in common, in the order in which they come."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(_key(run), []).append(run)
    labels = run_labels([group[0] for group in groups.values()])
    methods = {}
    for label, (key, group) in zip(labels, groups.items(), strict=True):
        ordered = sorted(group, key=lambda run: run.config.seed, reverse=True)  # of one data seed the least one stays
        methods[key] = Method(label, {run.config.data_seed: run for run in ordered})
    return methods


def _key(run: FinishedRun) -> str:
    """All that was chosen of a run, and nothing that was drawn."""
    identity = run.record["identity"]
    chosen = {n: identity[n] for n in sorted(identity) if n not in CHANCE and not n.endswith("_fingerprint")}
    return repr(chosen | {name: getattr(run.config, name) for name in LIMITS})


def method_gaps(runs: Sequence[FinishedRun], reference: FinishedRun, objective: str) -> Iterator[MethodGap]:
    """Every method against that of the reference, for each size, where they share two data seeds or more.

    Args:
        runs: of one granularity, judged on the same report windows.
        reference: one of them.
        objective: which all have measured.
    """
    methods = group_methods(runs)
    against = methods[_key(reference)]
    for method in methods.values():
        seeds = sorted(method.runs.keys() & against.runs.keys())
        if method is against or len(seeds) < 2:
            continue
        pair = [[m.runs[seed] for seed in seeds] for m in (method, against)]
        for size in sorted(set.intersection(*({e.size for e in run.chosen} for runs in pair for run in runs))):
            rows = [np.array([_rows(run, size, objective) for run in runs]) for runs in pair]
            documents = reference.documents("report", objective)
            found = procedure_gap(reference.objectives[objective], rows[0], rows[1], documents)
            yield MethodGap(reference.config.granularity, size, method.label, against.label, tuple(seeds), found)


def _rows(run: FinishedRun, size: int, objective: str) -> NDArray[np.float64]:
    return run.measurements.rows("report", run.chosen_of(size).plan, objective)
