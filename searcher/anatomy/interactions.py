"""Which units are needed most when others are gone: pair interactions, from the losses of all pairs' removals."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from searcher.anatomy.losses import Losses
from searcher.anatomy.work import Done, ignore
from searcher.contracts.cost import Cost
from searcher.contracts.plan import PrunePlan, Unit
from searcher.runs.clusters import standard_errors
from searcher.runs.measurement import Measurement

LEVEL = 0.95


@dataclass(frozen=True)
class Interaction:
    """One pair's interaction in nats per token.

    Attributes:
        units: the pair.
        value: the mean of J_ij over windows.
        error: its standard error.
        low: lower end of its interval, simultaneous for all pairs.
        high: upper end.
    """

    units: tuple[Unit, Unit]
    value: float
    error: float
    low: float
    high: float

    def facts(self) -> dict[str, Any]:
        """JSON."""
        return asdict(self) | {"units": [str(unit) for unit in self.units]}


@dataclass(frozen=True, eq=False)
class Interactions:
    """J_ij = f_ij - f_i - f_j + f_0 of all pairs of units, f the loss without them.

    Above 0 the two together are worth more than each alone: one can do what the other did, they are redundant. Below 0
    they are complementary: with one gone the other is worth less.

    Attributes:
        units: n of them.
        dense: float64 (windows,), the dense model's loss in nats per token.
        single: float64 (n, windows), without each unit.
        double: float64 (n, n, windows), without each pair; on the diagonal without the unit.
        documents: the document of each window; None if all windows are independent.
    """

    units: tuple[Unit, ...]
    dense: NDArray[np.float64]
    single: NDArray[np.float64]
    double: NDArray[np.float64]
    documents: tuple[int, ...] | None = None

    @property
    def per_window(self) -> NDArray[np.float64]:
        """float64 (n, n, windows): J of each window; NaN on the diagonal, and where a plan breaks the model."""
        with np.errstate(invalid="ignore"):  # infinity less infinity
            found: NDArray[np.float64] = self.double - self.single[:, None] - self.single + self.dense
        found = np.where(np.isfinite(found), found, np.nan)
        found[np.diag_indices(len(self.units))] = np.nan
        return found

    @property
    def matrix(self) -> NDArray[np.float64]:
        """float64 (n, n): the means of J over windows."""
        found: NDArray[np.float64] = self.per_window.mean(axis=-1)
        return found

    @property
    def errors(self) -> NDArray[np.float64]:
        """float64 (n, n): their standard errors; NaN where they cannot be told."""
        return standard_errors(self.per_window, self.documents)[0]

    @property
    def half_widths(self) -> NDArray[np.float64]:
        """float64 (n, n): of 95% intervals that hold for all pairs at once, by Bonferroni's correction.

        The t quantile is that of a level of 1 - 0.05/m, where m is the number of pairs: if no pair interacted, one or
        more of all intervals would exclude 0 in at most 5% of such measurements, as far as t fits so far out.
        """
        errors, degrees = standard_errors(self.per_window, self.documents)
        if not degrees:
            return errors
        pairs = len(self.units) * (len(self.units) - 1) // 2
        found: NDArray[np.float64] = errors * stats.t.isf((1 - LEVEL) / (2 * pairs), degrees)
        return found

    def redundant(self) -> tuple[Interaction, ...]:
        """The pairs whose interval is above 0, the most redundant first."""
        return tuple(sorted((pair for pair in self._pairs() if pair.low > 0), key=lambda pair: -pair.value))

    def complementary(self) -> tuple[Interaction, ...]:
        """The pairs whose interval is below 0, the most complementary first."""
        return tuple(sorted((pair for pair in self._pairs() if pair.high < 0), key=lambda pair: pair.value))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name; the units as text."""
        return {
            "units": np.array([str(unit) for unit in self.units]),
            "dense": self.dense,
            "single": self.single,
            "per_window": self.per_window,
            "matrix": self.matrix,
            "errors": self.errors,
            "half_widths": self.half_widths,
        }

    def facts(self, most: int = 10) -> dict[str, Any]:
        """JSON, with so many pairs of each kind at most."""
        redundant, complementary = self.redundant(), self.complementary()
        pairs = len(self.units) * (len(self.units) - 1) // 2
        return {
            "pairs": pairs,
            "windows": len(self.dense),
            "unknown": int(np.isnan(self.matrix[np.triu_indices(len(self.units), 1)]).sum()),
            "intervals": f"95% for all {pairs} pairs at once (Bonferroni)",
            "redundant_count": len(redundant),
            "complementary_count": len(complementary),
            "redundant": [pair.facts() for pair in redundant[:most]],
            "complementary": [pair.facts() for pair in complementary[:most]],
        }

    def _pairs(self) -> Iterator[Interaction]:
        matrix, errors, halves = self.matrix, self.errors, self.half_widths
        for i, j in combinations(range(len(self.units)), 2):
            value, half = float(matrix[i, j]), float(halves[i, j])
            yield Interaction(
                (self.units[i], self.units[j]), value, float(errors[i, j]), low=value - half, high=value + half
            )


def plans_for(units: Sequence[Unit]) -> list[PrunePlan]:
    """The plans whose losses are needed: the dense model, and the removal of every unit and of every pair."""
    return [PrunePlan.of(removed) for size in range(3) for removed in combinations(units, size)]


def cost(losses: Losses, units: Sequence[Unit]) -> Cost:
    """What measuring costs of those losses that are not known, shared prefixes once."""
    return losses.cost(plans_for(units))


def measure_pairs(losses: Losses, units: Sequence[Unit], done: Done = ignore) -> Iterator[Measurement]:
    """The losses that :func:`find_interactions` needs, each when it is there, to be stored.

    Args:
        losses: measures and knows them.
        units: distinct, of one granularity, so that a pair removes what neither of the two removes alone.
        done: told how far it is.
    """
    return losses.measure(plans_for(units), done)


def find_interactions(losses: Losses, units: Sequence[Unit], documents: Sequence[int] | None = None) -> Interactions:
    """The interactions of all pairs, from losses that have been measured by :func:`measure_pairs`.

    Args:
        losses: of all the plans.
        units: as measured.
        documents: the document of each window; None if all windows are independent.

    Raises:
        UsageError: a loss is missing.
    """
    single = np.array([losses.of(PrunePlan.of([unit])) for unit in units])
    double = np.array([[losses.of(PrunePlan.of([one, other])) for other in units] for one in units])
    return Interactions(
        tuple(units), losses.of(PrunePlan()), single, double, None if documents is None else tuple(documents)
    )
