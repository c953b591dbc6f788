"""Shapley values of units in the game of removing them."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from searcher.contracts.plan import PrunePlan, Unit
from searcher.contracts.scoreboard import Scoreboard, largest
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Outcome, Scores, Search, SearchStopped, Strategy
from searcher.errors import UsageError
from strategies.shapley_chains import Sample, Value
from strategies.shapley_estimators import Estimator, Replay, check_installed, least_samples


@dataclass(frozen=True)
class Estimate:
    """What removing each unit costs.

    Attributes:
        name: which values these are.
        values: of units.
        complete: whether no limit came before its end.
    """

    name: str
    values: dict[Unit, Value]
    complete: bool


Estimation = Generator[Ask, Scores, Estimate]
"""Asks of a part of a search, which ends with an estimate."""


@dataclass(frozen=True)
class Shapley(Strategy):
    """Remove the units whose removal costs least on average over random orders of removal.

    The cost of removing a unit is its mean marginal, f(S + unit) - f(S), where f is the objective of the model
    without S and S what a random chain of removals has removed before. Chains come in antithetic pairs (one order
    and its reverse), and within a set of pairs every unit stands equally often at every position; standard errors
    come from the pair means.

    By default chains are as long as the budget: *size-restricted* Shapley values, which average only over sets small
    enough for the model still to work. `full=true` runs whole permutations and estimates the Shapley values proper;
    there, most of the average comes from models that are already broken. Other estimators of the values proper come
    from the library shapiq. `adaptive=true` estimates again after each removal, from what is removed by then.

    When to use it: a ranking of all units with error bars, and a good plan from few evaluations. It sees the units
    in many contexts, where one-shot importance sees each alone and greedy along one path only. Adaptive, it costs
    about half the budget times as much, and sees what each removal changes.

    Source: Castro, Gomez & Tejada 2009 (Computers & Operations Research 36) for sampling permutations; Mitchell et
    al. 2022 (JMLR 23) for antithetic pairs; Siddiqui et al. 2024 (arXiv:2407.16286, section 3) for blocks of LLMs.
    Maleki et al. 2013 (arXiv:1306.4265) for stratified sampling; Kolpaczki et al. 2024 (AAAI 38) for SVARM; Lundberg
    & Lee 2017 (arXiv:1705.07874) for KernelSHAP; Muschalik et al. 2024 (arXiv:2410.01649) for shapiq.

    Args:
        chains: how many chains, rounded up to an even number; by default as many as there are units left to remove.
            Adaptive, in each round.
        full: chains of all units, not only as long as the budget.
        adaptive: estimate again after each removal.
        estimator: ours, or one of shapiq's.
        samples: how many sets of removed units an estimator of shapiq may ask about; by default as many as ours would.
    """

    chains: Annotated[int, Field(ge=2)] | None = None
    full: bool = False
    adaptive: bool = False
    estimator: Literal["ours"] | Estimator = "ours"
    samples: Annotated[int, Field(ge=2)] | None = None

    def __post_init__(self) -> None:
        """Refuse options that contradict each other."""
        if self.adaptive and self.full:
            raise UsageError("'adaptive' runs chains up to the size asked for, 'full' beyond it", "Choose one of them")
        if self.adaptive and self.estimator != "ours":
            raise UsageError(
                f"'adaptive' estimates for the size asked for, estimator '{self.estimator}' for all sizes",
                "Leave out one of them",
            )
        if self.estimator == "ours" and self.samples is not None:
            raise UsageError("'samples' is for the estimators of shapiq", "Use 'chains' for ours")
        if self.estimator != "ours":
            check_installed(self.estimator)

    def search(self, space: Space) -> Search:
        """All chains of a round in one batch, for they share much; then the nested plans of the units in order."""
        self._check(space)
        board, rng = Scoreboard(space), space.rng()
        removed: list[Unit] = []
        values: dict[Unit, Value] = {}
        for _ in range(space.size if self.adaptive else 1):
            base = PrunePlan.of(removed)
            estimate = yield from self._estimate(board, base, rng)
            # a round that was cut short leaves what earlier ones have found
            values |= {u: v for u, v in estimate.values.items() if v.mean is not None or u not in values}
            removed.append(_by_value(space.left(base), values)[0])
            if not estimate.complete:
                break
        values = dict.fromkeys(space.units, Value(None, None, 0)) | values  # of those that no legal plan removes
        order = [*removed, *_by_value([unit for unit in space.units if unit not in removed], values)]
        nested = [space.filled(PrunePlan(), order, size) for size in range(1, space.size + 1)]
        if estimate.complete:
            yield from _measure(board, nested if space.fits(nested) else nested[-1:])
        notes = {
            "values": estimate.name,
            "units": {str(unit): values[unit].to_json() for unit in order},
            "plan_by_value": str(nested[-1]),
        }
        by_size = [plan for size in reversed(space.sizes) for plan in (*board.ranked(size), nested[size - 1])]
        return Outcome(tuple(dict.fromkeys(by_size)), notes)

    def _check(self, space: Space) -> None:
        """Raises UsageError if values over all sets of units are asked for where not every set is legal."""
        if (self.full or self.estimator != "ours") and not space.all_legal:
            what = "full=true" if self.estimator == "ours" else f"Estimator '{self.estimator}'"
            few = space.largest < len(space.units)
            legal = f"the limits allow {space.largest} of {len(space.units)}" if few else "--at-most rules some out"
            raise UsageError(
                f"{what} removes all units together, and any of them, but {legal}",
                "Leave it out: chains as long as the budget respect the limits",
            )
        if self.samples is not None and self.samples < least_samples(space):
            raise UsageError(
                f"samples={self.samples} are too few for {len(space.units)} units",
                f"Ask for {least_samples(space)} or more",
            )

    def _estimate(self, board: Scoreboard, base: PrunePlan, rng: np.random.Generator) -> Estimation:
        sample = self._draw(board.space, base, rng)
        if self.estimator != "ours":
            wanted = self.samples or max(len(sample.plans()), least_samples(board.space))
            return (yield from _replayed(board, _affordable_replay(board.space, self.estimator, wanted)))
        sample = self._affordable(board.space, sample)
        complete = yield from _measure(board, sample.plans())
        name = "Shapley" if self.full else "adaptive size-restricted Shapley" if self.adaptive else RESTRICTED
        return Estimate(name, sample.values(board.space.left(base), board.scores), complete)

    def _draw(self, space: Space, base: PrunePlan, rng: np.random.Generator) -> Sample:
        length = (len(space.units) if self.full else space.size) - space.size_of(base)
        pairs = -(-(self.chains or len(space.left(base))) // 2)
        return Sample.draw(space, base, length, pairs, rng)

    def _affordable(self, space: Space, sample: Sample) -> Sample:
        """As many pairs as fit the limits together with as many in each later round and the final plan."""
        missing = space.size - space.size_of(sample.base)
        later = missing * (missing - 1) if self.adaptive else 0  # plans a pair: 2 * (missing - 1 + … + 1)

        def fits(count: int) -> bool:
            return space.fits(sample.first(count).plans(), spare=count * later + 1)

        return sample.first(max(1, largest(fits, len(sample.pairs))))


RESTRICTED = "size-restricted Shapley"


def _by_value(units: Sequence[Unit], values: dict[Unit, Value]) -> list[Unit]:
    """The units, those first that cost least to remove."""
    return sorted(units, key=lambda unit: (values[unit].sort_key, unit))


def _measure(board: Scoreboard, plans: Sequence[PrunePlan]) -> Generator[Ask, Scores, bool]:
    """Measure what can be measured: False if a limit has come, after which nothing more may be asked."""
    try:
        yield from board.measure(plans)
    except SearchStopped:
        return False
    return True


def _affordable_replay(space: Space, estimator: Estimator, samples: int) -> Replay:
    """With as many samples as fit the limits together with the final plan, or the fewest that make sense."""
    least = least_samples(space)
    extra = largest(lambda more: space.fits(Replay(space, estimator, least + more).plans, spare=1), samples - least)
    return Replay(space, estimator, least + extra)


def _replayed(board: Scoreboard, replay: Replay) -> Estimation:
    """The values of an estimator of shapiq; where it could not have all it wanted, an additive fit of what there is."""
    complete = yield from _measure(board, replay.plans)
    known = {plan: board.scores[plan] for plan in replay.plans if plan in board.scores}
    if complete and np.isfinite(list(known.values())).any():
        name, costs = f"Shapley, by shapiq's {replay.name}", replay.values(known).tolist()
    else:
        name, costs = "additive fit of the plans measured", list(board.unit_costs().values())
    removed = [set(plan.units(board.space.granularity)) for plan in known]
    seen = [sum(unit in units for units in removed) for unit in board.space.units]
    values = [Value(float(cost), None, count) for cost, count in zip(costs, seen, strict=True)]
    return Estimate(name, dict(zip(board.space.units, values, strict=True)), complete)
