"""What follows from the tables: gaps to greedy, how sure they are, and the sentences of the study."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from objectives.accuracy import Accuracy
from objectives.loss import Loss, Perplexity
from results.intervals import Gap, gap
from results.rounding import rounding_bound
from searcher.runs.clusters import standard_errors
from study.read import Tables
from study.records import Found

LEVEL = 0.05
"""Expected share of wrong claims among those that are called certain (Benjamini & Yekutieli 2001)."""


@dataclass(frozen=True)
class Beside:
    """A strategy's plan beside greedy's, for the same units, size and search windows.

    Attributes:
        greedy: greedy's search.
        other: the other search.
        search_gap: relative difference of the perplexities on the search windows; NaN if these differ.
        better: whether the other is better there by more than rounding explains, see :mod:`results.rounding`.
        report_gap: the same on the report windows, with its 95% interval.
        kl: divergence from the dense model, greedy's and the other's, nats per token.
        kl_gap: their difference.
        accuracy: share of right items, greedy's and the other's.
        accuracy_gap: their difference, the other's less greedy's, by McNemar's exact test.
    """

    greedy: Found
    other: Found
    search_gap: float
    better: bool
    report_gap: Gap
    kl: tuple[float, float]
    kl_gap: Gap
    accuracy: tuple[float, float]
    accuracy_gap: Gap

    @property
    def same(self) -> bool:
        """Whether both are the same plan."""
        return self.greedy.plan == self.other.plan


@dataclass(frozen=True)
class Pooled:
    """All data seeds of one granularity, size and strategy together.

    Attributes:
        granularity: of the units.
        size: units removed.
        method: the strategy.
        besides: of each data seed.
        search_gap: mean over data seeds.
        report_gap: mean over data seeds, window by window.
        p: of the hypothesis that the report gap is 0; 1 where all plans are the same.
        certain: whether it counts among the certain ones of the study.
    """

    granularity: str
    size: int
    method: str
    besides: tuple[Beside, ...]
    search_gap: float
    report_gap: Gap
    p: float
    certain: bool = False

    @property
    def verdict(self) -> str:
        """Are greedy's plans beaten on unseen text, as far as is known?

        `holds` if the plans are the same, `swapped` if they are greedy's for other search windows; `beaten`, `worse` or
        `open`, which may be chance.
        """
        if all(beside.same for beside in self.besides):
            return "holds"
        if Counter(beside.other.plan for beside in self.besides) == Counter(one.greedy.plan for one in self.besides):
            return "swapped"
        if not self.certain:
            return "open"
        return "beaten" if self.report_gap.value < 0 else "worse"

    @property
    def better(self) -> int:
        """Data seeds for which the plan is better than greedy's on the search windows, beyond rounding."""
        return sum(beside.better for beside in self.besides)


def besides(tables: Tables, reference: str = "greedy") -> list[Beside]:
    """Every search on prose beside the reference's for the same units, size and data seed."""
    found = []
    for one in tables.of(text="prose"):
        same = {"granularity": one.granularity, "size": one.size, "data_seed": one.data_seed}
        references = tables.of(text="prose", method=reference, **same)
        if one.method != reference and references:
            found.append(_beside(tables, references[0], one))
    return found


def _beside(tables: Tables, greedy: Found, other: Found) -> Beside:
    losses, divergences, items = (
        [tables.values(text, measure, found.plan) for found in (other, greedy)]
        for text, measure in (("prose", "loss"), ("prose", "kl"), ("choices", "accuracy"))
    )
    searched = other.search_value / greedy.search_value - 1 if other.windows == greedy.windows else np.nan
    return Beside(
        greedy,
        other,
        searched,
        bool(np.log1p(searched) < -rounding_bound(tables.dtype, other.windows)),
        gap(Perplexity(), losses[0], losses[1], tables.documents["prose"]),
        (float(divergences[1].mean()), float(divergences[0].mean())),
        gap(Loss(), divergences[0], divergences[1], tables.documents["prose"]),
        (float(items[1].mean()), float(items[0].mean())),
        gap(Accuracy("choices"), items[0], items[1]),
    )


def pooled(tables: Tables) -> list[Pooled]:
    """Each granularity, size and strategy over all data seeds; certain are those that stand when all are tested."""
    groups: dict[tuple[str, int, str], list[Beside]] = {}
    for one in besides(tables):
        groups.setdefault((one.other.granularity, one.other.size, one.other.method), []).append(one)
    found = [_pool(tables, *key, members) for key, members in groups.items()]
    # strategies may depend on each other in any way, so the procedure that allows for that
    adjusted = stats.false_discovery_control([one.p for one in found], method="by")
    verdicts = [replace(one, certain=bool(p <= LEVEL)) for one, p in zip(found, adjusted, strict=True)]
    order = list(dict.fromkeys(one.granularity for one in verdicts))
    return sorted(verdicts, key=lambda one: (order.index(one.granularity), one.size))


def _pool(tables: Tables, granularity: str, size: int, method: str, members: Sequence[Beside]) -> Pooled:
    here, there = (
        np.mean([tables.values("prose", "loss", plan) for plan in plans], axis=0)
        for plans in ([one.other.plan for one in members], [one.greedy.plan for one in members])
    )
    searched = float(np.expm1(np.mean([np.log1p(one.search_gap) for one in members])))
    report = gap(Perplexity(), here, there, tables.documents["prose"])
    return Pooled(
        granularity, size, method, tuple(members), searched, report, _p(here - there, tables.documents["prose"])
    )


def _p(differences: NDArray[np.float64], documents: Sequence[int]) -> float:
    """Two-sided, by the same clustered t distribution as the intervals."""
    if not differences.any():
        return 1.0
    error, degrees = standard_errors(differences, documents)
    return float(2 * stats.t.sf(abs(differences.mean()) / error, degrees))
