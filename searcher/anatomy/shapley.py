"""Shapley interaction indices of pairs: interactions averaged over what else is gone, by shapiq.

The coalitions that shapiq draws do not depend on what it is told of them, so it is run twice with one seed: first on a
game that is always 0, to learn which plans it asks about, then on their losses.
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from searcher.anatomy.correlation import Correlation, correlate
from searcher.anatomy.losses import Losses
from searcher.anatomy.work import Done, ignore
from searcher.contracts.cost import Cost
from searcher.contracts.plan import PrunePlan, Unit
from searcher.errors import UsageError
from searcher.runs.measurement import Measurement

Index = Literal["k-SII", "FSII"]
ESTIMATORS: dict[Index, str] = {"k-SII": "KernelSHAPIQ", "FSII": "RegressionFSII"}
"""Classes of shapiq: KernelSHAP-IQ (Fumagalli et al. 2024, arXiv:2405.10852) estimates k-SII (Bordt & von Luxburg 2023,
arXiv:2209.04012), and a weighted regression the faithful index (Tsai et al. 2023, JMLR 24)."""

Coalitions = NDArray[np.bool_]
Answer = Callable[[Coalitions], NDArray[np.float64]]


@dataclass(frozen=True)
class Sampling:
    """Which sets of removed units are looked at.

    If the budget covers all sets, each is measured and the indices are exact. Else it is divided among two samplings
    with seeds of their own, whose mean is the estimate; how far they agree says how far it can be trusted. Half of what
    shapiq draws removes nearly everything, where losses are huge: for more than a dozen units a budget that is enough
    may be far out of reach.

    Args:
        units: distinct, of one granularity.
        index: `k-SII` of order 2, or `FSII` of order 2.
        budget: plans at most.
        seed: of the samplings.

    Raises:
        UsageError: shapiq is missing, or the budget is too small to say something about every pair.
    """

    units: tuple[Unit, ...]
    index: Index = "k-SII"
    budget: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.index not in get_args(Index):
            raise UsageError(f"Index '{self.index}' is not known", f"Choose {' or '.join(get_args(Index))}")
        if importlib.util.find_spec("shapiq") is None:
            raise UsageError("Shapley interactions need shapiq", 'Install it: pip install "pruneplan[shapiq]"')
        if len(self.units) < 2:
            raise UsageError(f"{len(self.units)} units have no interactions", "Name two or more")
        least = 2 * _coefficients(len(self.units))
        if not self.exact and self.budget < least:
            raise UsageError(
                f"{self.budget} plans are too few for the interactions of {len(self.units)} units",
                f"Measure {min(least, 1 << len(self.units))} or more, or name fewer units",
            )

    @property
    def exact(self) -> bool:
        """Whether every set of units is measured."""
        return 1 << len(self.units) <= self.budget

    @cached_property
    def plans(self) -> tuple[PrunePlan, ...]:
        """The plans whose losses are needed, each once; the dense model is among them."""
        asked: dict[PrunePlan, None] = {}

        def listen(coalitions: Coalitions) -> NDArray[np.float64]:
            asked.update(dict.fromkeys(self._plans(coalitions)))
            return np.zeros(len(coalitions))

        self._run(listen)
        return tuple(asked)

    def indices(self, costs: Mapping[PrunePlan, float]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """The indices of single units (n,) and of pairs (n, n) by each sampling, from what each plan costs."""
        return self._run(lambda coalitions: np.array([costs[plan] for plan in self._plans(coalitions)]))

    def _plans(self, coalitions: Coalitions) -> list[PrunePlan]:
        return [PrunePlan.of(self.units[i] for i in np.flatnonzero(row)) for row in coalitions]

    def _run(self, answer: Answer) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        from shapiq import approximator

        n, runs = len(self.units), 1 if self.exact else 2
        budget = 1 << n if self.exact else self.budget // runs
        found = []
        for run in range(runs):
            seed = int(np.random.SeedSequence([self.seed, run]).generate_state(1)[0])
            made: Any = getattr(approximator, ESTIMATORS[self.index])(n=n, max_order=2, random_state=seed)
            with warnings.catch_warnings():  # that nearly all sets of some size are drawn
                warnings.simplefilter("ignore")
                values = made.approximate(budget=budget, game=answer)
            found.append((values.get_n_order_values(1), values.get_n_order_values(2)))
        return found


@dataclass(frozen=True, eq=False)
class ShapleyInteractions:
    """Shapley interaction indices of order 2, in the game of what removing units costs in loss.

    Signs are those of `searcher.anatomy.interactions`: pairs above 0 are redundant, below 0 complementary.

    Attributes:
        sampling: which sets of units were looked at, and which index was taken.
        single: float64 (n,), in nats per token.
        pairs: float64 (n, n), symmetric, NaN on the diagonal.
        agreement: Spearman's rank correlation between the pairs of the two samplings; None if exact.
        total: what removing all units costs; `single` and `pairs` (each pair once) add up to it.
        broken: how many plans gave no finite loss; each counts as much as the worst that did.
    """

    sampling: Sampling
    single: NDArray[np.float64]
    pairs: NDArray[np.float64]
    agreement: Correlation | None
    total: float
    broken: int

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name; the units as text."""
        units = np.array([str(unit) for unit in self.sampling.units])
        return {"units": units, "single": self.single, "pairs": self.pairs}

    def facts(self) -> dict[str, Any]:
        """JSON."""
        sampling = self.sampling
        return {
            "index": sampling.index,
            "order": 2,
            "estimator": f"shapiq.{ESTIMATORS[sampling.index]}",
            "budget": sampling.budget,
            "plans": len(sampling.plans),
            "exact": sampling.exact,
            "agreement": None if self.agreement is None else self.agreement.facts(),
            "total": self.total,
            "broken": self.broken,
        }


def cost(losses: Losses, sampling: Sampling) -> Cost:
    """What measuring costs of those losses that are not known, shared prefixes once."""
    return losses.cost(sampling.plans)


def measure_coalitions(losses: Losses, sampling: Sampling, done: Done = ignore) -> Iterator[Measurement]:
    """The losses that :func:`find_shapley` needs, each when it is there, to be stored."""
    return losses.measure(sampling.plans, done)


def find_shapley(losses: Losses, sampling: Sampling) -> ShapleyInteractions:
    """The indices, from losses that have been measured by :func:`measure_coalitions`.

    Raises:
        UsageError: a loss is missing, or the dense model has none.
    """
    found = {plan: float(losses.of(plan).mean()) for plan in sampling.plans}
    dense = found[PrunePlan()]
    if not np.isfinite(dense):
        raise UsageError("The dense model has no finite loss on these windows", "Try --dtype float32")
    worst = max(loss for loss in found.values() if np.isfinite(loss))
    costs = {plan: (loss if np.isfinite(loss) else worst) - dense for plan, loss in found.items()}
    indices = sampling.indices(costs)
    pairs = np.mean([of_pairs for _, of_pairs in indices], axis=0)
    np.fill_diagonal(pairs, np.nan)
    return ShapleyInteractions(
        sampling,
        single=np.mean([single for single, _ in indices], axis=0),
        pairs=pairs,
        agreement=None if sampling.exact else _agreement([of_pairs for _, of_pairs in indices]),
        total=costs[PrunePlan.of(sampling.units)],
        broken=sum(not np.isfinite(loss) for loss in found.values()),
    )


def _agreement(pairs: Sequence[NDArray[np.float64]]) -> Correlation:
    one, other = (found[np.triu_indices(len(found), 1)] for found in pairs)
    return correlate(one, other)


def _coefficients(n: int) -> int:
    """How many numbers a regression of order 2 finds."""
    return 1 + n + n * (n - 1) // 2
