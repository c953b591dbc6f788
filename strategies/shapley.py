"""Shapley values of units in the game of removing them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from searcher.plan import PrunePlan, Unit
from searcher.space import Space
from searcher.strategy import Ask, Outcome, Scores, Search, SearchStopped, Strategy, order_by_score

Chain = tuple[Unit, ...]


@dataclass(frozen=True)
class Shapley(Strategy):
    """Remove the units whose removal costs least on average over random orders of removal.

    The cost of removing a unit is its mean marginal, f(S + unit) - f(S), where f is the objective of the model
    without S and S what a random chain of removals has removed before. Chains come in antithetic pairs (one order
    and its reverse), and within a set of pairs every unit stands equally often at every position; standard errors
    come from the pair means.

    By default chains are as long as the budget: *size-restricted* Shapley values, which average only over sets small
    enough for the model still to work. `full=true` runs whole permutations and estimates the Shapley values proper;
    there, most of the average comes from models that are already broken.

    When to use it: a ranking of all units with error bars, and a good plan from few evaluations. It sees the units
    in many contexts, where one-shot importance sees each alone and greedy along one path only.

    Source: Castro, Gomez & Tejada 2009 (Computers & Operations Research 36) for sampling permutations; Mitchell et
    al. 2022 (JMLR 23) for antithetic pairs; Siddiqui et al. 2024 (arXiv:2407.16286, section 3) for blocks of LLMs.

    Args:
        chains: how many chains, rounded up to an even number; by default as many as there are legal units.
        full: chains of all units, not only as long as the budget.
    """

    chains: Annotated[int, Field(ge=2)] | None = None
    full: bool = False

    def search(self, space: Space) -> Search:
        """All chains in one batch, for they share much; then the nested plans of the units in order of value."""
        known: dict[PrunePlan, float] = {}
        pairs = self._affordable(space, self._pairs(space))
        try:
            _learn(known, (yield Ask(_plans_of(chain for pair in pairs for chain in pair))))
        except SearchStopped as stop:
            _learn(known, stop.scores)
        values = _values(space.units, pairs, known)
        order = sorted(space.units, key=lambda unit: (values[unit].sort_key, unit))
        nested = _nested(order[: space.size])[1:]
        try:
            _learn(known, (yield Ask(nested if space.fits(nested) else nested[-1:])))
        except SearchStopped as stop:
            _learn(known, stop.scores)
        full_size = order_by_score([p for p in known if p.size(space.granularity) == space.size], known)
        return Outcome(tuple(dict.fromkeys((*full_size, *reversed(nested)))), self._notes(values, order, nested))

    def _length(self, space: Space) -> int:
        return len(space.units) if self.full else space.size

    def _number_of_pairs(self, space: Space) -> int:
        return -(-(self.chains or len(space.units)) // 2)

    def _pairs(self, space: Space) -> list[tuple[Chain, Chain]]:
        """Antithetic pairs of chains, from balanced sets of permutations."""
        rng, wanted = space.rng(), self._number_of_pairs(space)
        permutations: list[Chain] = []
        while len(permutations) < wanted:
            permutations += _balanced_permutations(space.units, rng)
        length = self._length(space)
        return [(p[:length], p[::-1][:length]) for p in permutations[:wanted]]

    def _affordable(self, space: Space, pairs: list[tuple[Chain, Chain]]) -> list[tuple[Chain, Chain]]:
        """As many pairs as fit the limits together with the final plan."""
        while len(pairs) > 1 and not space.fits(_plans_of(c for pair in pairs for c in pair), spare=1):
            pairs = pairs[: max(1, len(pairs) * 9 // 10)]
        return pairs

    def _notes(self, values: "dict[Unit, Value]", order: list[Unit], nested: Sequence[PrunePlan]) -> dict[str, Any]:
        return {
            "values": "Shapley" if self.full else "size-restricted Shapley",
            "units": {str(unit): values[unit].to_json() for unit in order},
            "plan_by_value": str(nested[-1]),
        }


@dataclass(frozen=True)
class Value:
    """The estimated cost of removing a unit.

    Attributes:
        mean: mean of its observed marginals, None where it was seen fewer than twice: "unknown".
        standard_error: from the means of antithetic pairs, None where only one pair saw it.
        seen: number of marginals observed.
    """

    mean: float | None
    standard_error: float | None
    seen: int

    @property
    def sort_key(self) -> float:
        """Unknown units come last: nothing says that they are free."""
        return np.inf if self.mean is None else self.mean

    def to_json(self) -> dict[str, Any]:
        """JSON values; what is not a finite number is written as text."""
        mean = "unknown" if self.mean is None else self.mean if np.isfinite(self.mean) else str(self.mean)
        return {"value": mean, "standard_error": self.standard_error, "seen": self.seen}


def _nested(chain: Sequence[Unit]) -> tuple[PrunePlan, ...]:
    """The plans along a chain of removals, the dense model first."""
    return tuple(PrunePlan.of(chain[:length]) for length in range(len(chain) + 1))


def _plans_of(chains: Any) -> tuple[PrunePlan, ...]:
    return tuple(dict.fromkeys(plan for chain in chains for plan in _nested(chain)))


def _learn(known: dict[PrunePlan, float], scores: Scores) -> None:
    known.update((p, s) for p, s in zip(scores.plans, scores.first.tolist(), strict=True) if not np.isnan(s))


def _values(
    units: Sequence[Unit], pairs: Sequence[tuple[Chain, Chain]], known: dict[PrunePlan, float]
) -> dict[Unit, Value]:
    seen: dict[Unit, list[list[float]]] = {unit: [] for unit in units}
    for pair in pairs:
        of_pair: dict[Unit, list[float]] = {}
        for chain in pair:
            plans = _nested(chain)
            for unit, before, after in zip(chain, plans, plans[1:], strict=False):
                if (marginal := _marginal(known.get(before), known.get(after))) is not None:
                    of_pair.setdefault(unit, []).append(marginal)
        for unit, marginals in of_pair.items():
            seen[unit].append(marginals)
    return {unit: _value(seen[unit]) for unit in units}


def _marginal(before: float | None, after: float | None) -> float | None:
    """What a removal cost; nothing is learnt from a step that was not measured or starts from a broken model."""
    if before is None or after is None or not np.isfinite(before):
        return None
    return after - before


def _value(by_pair: list[list[float]]) -> Value:
    marginals = [m for pair in by_pair for m in pair]
    if len(marginals) < 2:
        return Value(None, None, len(marginals))
    means = np.array([np.mean(pair) for pair in by_pair])
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 and np.isfinite(means).all() else None
    return Value(float(np.mean(marginals)), error, len(marginals))


def _balanced_permutations(units: Sequence[Unit], rng: np.random.Generator) -> list[Chain]:
    """Half as many permutations as units, in which, read both ways, every unit stands once at every position.

    They are filled from both ends inwards. At each step the two ends of all rows together are matched to all the
    units, none twice in a row; every row and every unit has the same number of partners left, so by Hall's theorem a
    matching exists. An odd number of units is made even by a dummy, which is dropped at the end.
    """
    count = len(units) + len(units) % 2
    rows = np.full((count // 2, count), -1)
    free = np.ones((count // 2, count), dtype=bool)  # (rows, units): not yet in this row
    for position in range(count // 2):
        ends = _matched(np.concatenate([free, free]), rng)  # the front of every row, then the back
        for row, (front, back) in enumerate(ends.reshape(2, -1).T):
            rows[row, position], rows[row, count - 1 - position] = front, back
            free[row, [front, back]] = False
    return [tuple(units[i] for i in row if i < len(units)) for row in rows.tolist()]


def _matched(allowed: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random perfect matching: for each slot its unit, among those allowed."""
    cost = np.where(allowed, rng.random(allowed.shape), 1e6)
    slots, matched = linear_sum_assignment(cost)
    assert allowed[slots, matched].all(), "a regular bipartite graph has a perfect matching"
    return matched.astype(np.int64)
