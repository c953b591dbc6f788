"""Marginal costs along random chains of removals: the sampling behind our Shapley values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from searcher.contracts.plan import PrunePlan, Unit
from searcher.contracts.space import Space

Chain = tuple[Unit, ...]
"""Units in the order in which they are removed."""


@dataclass(frozen=True)
class Value:
    """The estimated cost of removing a unit.

    Attributes:
        mean: mean of its observed marginals, None where there were too few of them: "unknown".
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


@dataclass(frozen=True)
class Sample:
    """Chains of removals in antithetic pairs, all from one plan.

    Attributes:
        base: what is removed before any chain begins.
        pairs: an order of removals and its reverse, each as far as it was to go.
    """

    base: PrunePlan
    pairs: tuple[tuple[Chain, Chain], ...]

    @classmethod
    def draw(cls, space: Space, base: PrunePlan, length: int, pairs: int, rng: np.random.Generator) -> "Sample":
        """So many pairs of chains of this length, from balanced sets of permutations of the units left."""
        permutations: list[Chain] = []
        while len(permutations) < pairs:
            permutations += balanced_permutations(space.left(base), rng)
        chains = ((_legal(space, base, p, length), _legal(space, base, p[::-1], length)) for p in permutations[:pairs])
        return cls(base, tuple(chains))

    def first(self, pairs: int) -> "Sample":
        """The sample with this many of its pairs."""
        return Sample(self.base, self.pairs[:pairs])

    def plans(self) -> tuple[PrunePlan, ...]:
        """Every plan along the chains, once."""
        return tuple(dict.fromkeys(plan for pair in self.pairs for chain in pair for plan in self._nested(chain)))

    def values(self, units: Iterable[Unit], known: Mapping[PrunePlan, float]) -> dict[Unit, Value]:
        """The mean marginal cost of each of these units, by the scores that are known."""
        seen: dict[Unit, list[list[float]]] = {unit: [] for unit in units}
        for pair in self.pairs:
            of_pair: dict[Unit, list[float]] = {}
            for unit, marginal in (step for chain in pair for step in self._marginals(chain, known)):
                of_pair.setdefault(unit, []).append(marginal)
            for unit, marginals in of_pair.items():
                seen[unit].append(marginals)
        # chains of one removal all see the same context: one look is the whole truth
        least = 2 if any(len(chain) > 1 for pair in self.pairs for chain in pair) else 1
        return {unit: _value(by_pair, least) for unit, by_pair in seen.items()}

    def _nested(self, chain: Chain) -> tuple[PrunePlan, ...]:
        return tuple(self.base.remove(*chain[:length]) for length in range(len(chain) + 1))

    def _marginals(self, chain: Chain, known: Mapping[PrunePlan, float]) -> Iterable[tuple[Unit, float]]:
        """What each removal cost; nothing is learnt from one that was not measured or starts from a broken model."""
        scores = [known.get(plan, np.nan) for plan in self._nested(chain)]
        for unit, before, after in zip(chain, scores, scores[1:], strict=False):
            if np.isfinite(before) and not np.isnan(after):
                yield unit, after - before


def _legal(space: Space, base: PrunePlan, order: Chain, length: int) -> Chain:
    """The first units of this order that may be removed one after another; the others are passed over."""
    chain: list[Unit] = []
    for unit in order:
        if len(chain) == length:
            break
        if unit in space.left(base.remove(*chain)):
            chain.append(unit)
    return tuple(chain)


def _value(by_pair: list[list[float]], least: int) -> Value:
    marginals = [m for pair in by_pair for m in pair]
    if len(marginals) < least:
        return Value(None, None, len(marginals))
    means = np.array([np.mean(pair) for pair in by_pair])
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 and np.isfinite(means).all() else None
    return Value(float(np.mean(marginals)), error, len(marginals))


def balanced_permutations(units: Sequence[Unit], rng: np.random.Generator) -> list[Chain]:
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
