"""The smaller tables of the study: certificates, healing, other texts, and what is surprising."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from objectives.loss import Perplexity
from results.intervals import Gap, gap
from study.claims import Beside
from study.read import Tables
from study.records import Found
from study.tiers import MORE_TEXT

DENSE = "dense"
TEXTS = ("prose", "manual", "code")
"""Texts that have a perplexity, in the order of the table."""
AFTER = "loss after "


@dataclass(frozen=True)
class Healed:
    """A plan before and after healing, in perplexity on the report windows.

    Attributes:
        found: the search that chose the plan.
        before: as it is.
        after: healed.
        gap_before: to greedy's plan of the same search windows.
        gap_after: the same, both healed.
        same: whether it is greedy's plan, found by another search.
    """

    found: Found
    before: float
    after: float
    gap_before: Gap
    gap_after: Gap
    same: bool


@dataclass(frozen=True)
class Transferred:
    """A plan chosen on one text, judged on all.

    Attributes:
        found: the search that chose it.
        perplexities: on prose, manual and code, in this order.
        accuracy: share of right items.
        own_gap: to greedy's plan, on unseen text of the kind it was chosen on; None for choices.
    """

    found: Found
    perplexities: tuple[float, ...]
    accuracy: float
    own_gap: Gap | None


@dataclass(frozen=True)
class Misuse:
    """A plan used on a text that it was not chosen on, beside that which the same strategy chose on it.

    Attributes:
        method: the strategy.
        chosen: what the plan was chosen on.
        used: where it is judged, on unseen text.
        here: its perplexity.
        there: that of the plan which was chosen on `used`.
    """

    method: str
    chosen: str
    used: str
    here: float
    there: float

    @property
    def gap(self) -> float:
        """What it costs to have chosen on the other text, relative."""
        return self.here / self.there - 1


def perplexity(tables: Tables, text: str, plan: str, measure: str = "loss") -> float:
    """The exp of the mean loss."""
    return float(np.exp(tables.mean(text, measure, plan)))


def healings(tables: Tables) -> tuple[str, ...]:
    """Recipes that plans were healed by."""
    return tuple(dict.fromkeys(m.removeprefix(AFTER) for _, m, _ in tables.rows if m.startswith(AFTER)))


def healed(tables: Tables, recipe: str) -> list[Healed]:
    """The plans that were healed so, each beside greedy's."""
    found = []
    for one in tables.of(text="prose"):
        same = {"granularity": one.granularity, "size": one.size, "data_seed": one.data_seed}
        (greedy,) = tables.of(text="prose", method="greedy", **same)
        if ("prose", AFTER + recipe, one.plan) in tables.rows and one.method != MORE_TEXT:
            found.append(_healed(tables, one, greedy, AFTER + recipe))
    return found


def _healed(tables: Tables, one: Found, greedy: Found, after: str) -> Healed:
    before, healed = (
        gap(
            Perplexity(),
            tables.values("prose", measure, one.plan),
            tables.values("prose", measure, greedy.plan),
            tables.documents["prose"],
        )
        for measure in ("loss", after)
    )
    plain, mended = (perplexity(tables, "prose", one.plan, measure) for measure in ("loss", after))
    return Healed(one, plain, mended, before, healed, one != greedy and one.plan == greedy.plan)


def transferred(tables: Tables) -> list[Transferred]:
    """Plans chosen on each text, those of prose by the searches of the same units, size and data seed."""
    alike = dict.fromkeys((one.granularity, one.size, one.data_seed) for one in tables.searches if one.text != "prose")
    chosen = [
        one
        for granularity, size, seed in alike
        for one in tables.of(granularity=granularity, size=size, data_seed=seed)
        if one.method != MORE_TEXT
    ]
    return [
        Transferred(
            one,
            tuple(perplexity(tables, text, one.plan) for text in TEXTS),
            tables.mean("choices", "accuracy", one.plan),
            _own_gap(tables, one, chosen),
        )
        for one in chosen
    ]


def _own_gap(tables: Tables, one: Found, chosen: Sequence[Found]) -> Gap | None:
    if one.text not in TEXTS:
        return None
    same = (one.text, one.granularity, one.size, "greedy")
    (greedy,) = [other for other in chosen if (other.text, other.granularity, other.size, other.method) == same]
    here, there = (tables.values(one.text, "loss", plan) for plan in (one.plan, greedy.plan))
    return gap(Perplexity(), here, there, tables.documents[one.text])


def misuses(chosen: Sequence[Transferred]) -> list[Misuse]:
    """Every use of plans on a text that they were not chosen on, the dearest last; for plans of one size."""
    found = [
        Misuse(one.found.method, one.found.text, used, *(which.perplexities[column] for which in (one, own)))
        for column, used in enumerate(TEXTS)
        for own in chosen
        for one in chosen
        if own.found.text == used and one.found.text != used and one.found.method == own.found.method
    ]
    return sorted(found, key=lambda misuse: misuse.gap)


def dense_transferred(tables: Tables) -> tuple[tuple[float, ...], float]:
    """The dense model on all texts."""
    values = tuple(perplexity(tables, text, DENSE) for text in TEXTS)
    return values, tables.mean("choices", "accuracy", DENSE)


def disagreement(tables: Tables) -> float | None:
    """Spearman correlation of report loss and accuracy over all plans chosen on prose; None if all are alike."""
    plans = list(dict.fromkeys(one.plan for one in tables.of(text="prose")))
    losses = [tables.mean("prose", "loss", plan) for plan in plans]
    accuracies = [tables.mean("choices", "accuracy", plan) for plan in plans]
    if len(set(losses)) == 1 or len(set(accuracies)) == 1:
        return None
    return float(stats.spearmanr(losses, accuracies).statistic)


def turned(found: Sequence[Beside]) -> list[Beside]:
    """Plans better than greedy's on the search windows, and worse on unseen ones beyond their interval's reach."""
    return [one for one in found if one.better and one.report_gap.low is not None and one.report_gap.low > 0]
