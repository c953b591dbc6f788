"""Optuna's samplers, over one score a unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from searcher.contracts.optuna_log import quiet_optuna
from searcher.contracts.plan import PrunePlan
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.space import Space
from searcher.contracts.strategy import Search, SearchStopped, Strategy
from searcher.errors import UsageError

if TYPE_CHECKING:
    import optuna  # takes a second: at run time it is imported when a search begins

Sampler = Literal["tpe", "gp", "nsga2", "nsga3", "cmaes", "random", "qmc"]

REMOVED, KEPT = 0.25, 0.75
"""Scores of the units that the plan to start from removes, and of the others."""
SIZE = "size"
"""Name of the parameter that says how many units to remove, where the sampler may choose."""
STUCK = 5
"""After so many suggestions in a row without a new plan one is drawn at random: a sampler that has settled for a plan
suggests it again and again."""


@dataclass(frozen=True)
class Optuna(Strategy):
    """Let a sampler of Optuna give each unit a score between 0 and 1, and remove the units of lowest score.

    Every set of scores is a legal plan, whatever the sampler proposes, and with a range of sizes it is a plan of each
    size: the sampler then minimises the sum of their losses. A plan that comes up again costs nothing.

    With several objectives (and no `--weight`) the sampler searches for their whole Pareto front: each suggestion is
    one plan, its size chosen by the sampler too, and it is told every value. `cmaes` cannot do that.

    When to use it: to try general-purpose optimisers at the same cost as the other strategies. `tpe` and `cmaes` learn
    from tens of plans; `random` and `qmc` learn nothing; `nsga2` and `nsga3` are made for several objectives, and their
    first 50 suggestions are random. `gp` thinks longest: 200 plans of 60 units take it about a minute on one core,
    where the others take 1 to 5 seconds; and where another machine rounds its fits differently, it may suggest others.

    Source: Akiba et al. 2019 (arXiv:1907.10902) for Optuna; Watanabe 2023 (arXiv:2304.11127) for TPE; Hansen 2016
    (arXiv:1604.00772) for CMA-ES; Deb et al. 2002 (IEEE TEC 6) and Deb & Jain 2014 (IEEE TEC 18) for NSGA-II and III.
    One real score a unit is the random-keys encoding of Bean 1994 (ORSA Journal on Computing 6).

    Args:
        sampler: which of Optuna's samplers.
        trials: how many distinct plans to measure; the last suggestion for a range of sizes may pass it.
        batch: suggestions measured together; a sampler learns only between batches.
        patience: end after this many suggestions in a row that bring no new plan; every sixth of them is random.
    """

    sampler: Sampler = "tpe"
    trials: Annotated[int, Field(ge=1)] = 200
    batch: Annotated[int, Field(ge=1)] = 8
    patience: Annotated[int, Field(ge=1)] = 100

    starts: ClassVar[bool] = True

    def search(self, space: Space) -> Search:
        """In batches, until there are enough plans or nothing new comes."""
        if space.goals > 1 and self.sampler == "cmaes":
            raise UsageError(
                "Optuna's cmaes sampler searches for one number",
                "Take nsga2, nsga3, tpe or gp for several objectives, or add them up with --weight",
            )
        board = Scoreboard(space)
        advisor = _Advisor(board, _make_study(self.sampler, space), space.rng())
        wanted = min(self.trials, sum(space.count(size) for size in space.sizes))
        try:
            while advisor.stale < self.patience and len(board.scores) < wanted:
                batch = advisor.suggest(self.batch, wanted - len(board.scores), self.patience)
                yield from board.measure(plan for suggestion in batch for plan in suggestion.plans)
                advisor.tell(batch)
        except SearchStopped:
            pass
        return board.outcome(self._notes(advisor))

    def _notes(self, advisor: "_Advisor") -> dict[str, Any]:
        line = (
            f"Optuna's {self.sampler} sampler made {advisor.suggestions} suggestions, "
            f"{advisor.repeats} of them without a new plan."
        )
        found = {"sampler": self.sampler, "suggestions": advisor.suggestions, "repeats": advisor.repeats}
        return {**found, "summary": [line]}


@dataclass(frozen=True)
class _Suggestion:
    """A trial of the study, and its plans: one, or for a range of sizes and one goal one of each, the largest first."""

    trial: int
    plans: tuple[PrunePlan, ...]


@dataclass
class _Advisor:
    """An Optuna study that speaks of plans.

    Attributes:
        board: knows the scores.
        study: of Optuna.
        rng: for the random suggestions between those of the sampler.
        suggestions: how many came so far.
        repeats: how many of them brought no new plan.
        stale: how many of the last ones in a row.
        worst: the largest finite value that the study was told, of each goal.
    """

    board: Scoreboard
    study: "optuna.Study"
    rng: np.random.Generator
    suggestions: int = 0
    repeats: int = 0
    stale: int = 0
    worst: dict[int, float] = field(default_factory=dict)

    def suggest(self, count: int, room: int, patience: int) -> list[_Suggestion]:
        """As many suggestions to be measured; what is known already is told to the study at once.

        Args:
            count: of suggestions at most.
            room: new plans at most, but for those that come with the last suggestion.
            patience: suggestions in a row without a new plan at most.
        """
        waiting: list[_Suggestion] = []
        known = set(self.board.scores)
        while len(waiting) < count and len(known) - len(self.board.scores) < room and self.stale < patience:
            suggestion = self._ask()
            self._count(new=not known.issuperset(suggestion.plans))
            known.update(suggestion.plans)
            if self.board.scores.keys() >= set(suggestion.plans):
                self.tell([suggestion])
            else:
                waiting.append(suggestion)
        return waiting

    def tell(self, suggestions: Sequence[_Suggestion]) -> None:
        """Tell the study the values of these suggestions, whose plans are all known.

        The Gaussian process and CMA-ES need finite values: a broken plan gets one that is worse than any seen so far.
        """
        told = [self._values(suggestion) for suggestion in suggestions]
        for goal, value in ((goal, value) for values in told for goal, value in enumerate(values)):
            if math.isfinite(value):
                self.worst[goal] = max(value, self.worst.get(goal, value))
        with quiet_optuna():
            for suggestion, values in zip(suggestions, told, strict=True):
                broken = [self.worst.get(goal, 0.0) + 1 for goal in range(len(values))]
                finite = [value if math.isfinite(value) else bad for value, bad in zip(values, broken, strict=True)]
                self.study.tell(suggestion.trial, finite)

    def _values(self, suggestion: _Suggestion) -> tuple[float, ...]:
        """Of each goal; of several plans the sum."""
        values = [self.board.values[plan] for plan in suggestion.plans]
        return tuple(map(sum, zip(*values, strict=True)))

    def _ask(self) -> _Suggestion:
        space = self.board.space
        with quiet_optuna():
            if self.stale % (STUCK + 1) == STUCK:
                self.study.enqueue_trial({str(unit): self.rng.random() for unit in space.units})
            trial = self.study.ask(_distributions(space))
        order = sorted(space.units, key=lambda unit: (trial.params[str(unit)], unit))
        if space.goals > 1:
            return _Suggestion(trial.number, (space.filled(PrunePlan(), order, trial.params.get(SIZE, space.size)),))
        plans = [PrunePlan()]
        for size in space.sizes:
            plans.append(space.filled(plans[-1], order, size))
        return _Suggestion(trial.number, tuple(reversed(plans[1:])))

    def _count(self, new: bool) -> None:
        self.suggestions += 1
        self.repeats += not new
        self.stale = 0 if new else self.stale + 1


def _distributions(space: Space) -> dict[str, Any]:
    from optuna.distributions import FloatDistribution, IntDistribution

    found: dict[str, Any] = {str(unit): FloatDistribution(0, 1) for unit in space.units}
    if space.goals > 1 and len(space.sizes) > 1:
        found[SIZE] = IntDistribution(space.sizes[0], space.size)
    return found


def _make_study(sampler: Sampler, space: Space) -> "optuna.Study":
    """A study in memory, whose first trial is the plan to start from."""
    import optuna

    start = None
    if space.start is not None:
        removed = space.start.units(space.granularity)
        start = {str(unit): REMOVED if unit in removed else KEPT for unit in space.units}
    with quiet_optuna():
        directions = [optuna.study.StudyDirection.MINIMIZE] * space.goals
        study = optuna.create_study(sampler=_make_sampler(sampler, space.seed, start), directions=directions)
        if start is not None:
            study.enqueue_trial(start)
    return study


def _make_sampler(sampler: Sampler, seed: int, start: dict[str, float] | None) -> "optuna.samplers.BaseSampler":
    """The sampler with Optuna 5's own settings, written out where earlier releases differ."""
    from optuna import samplers

    match sampler:
        case "tpe":  # the constant liar keeps the trials of a batch apart
            return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        case "gp":  # the same plan has the same score
            return samplers.GPSampler(seed=seed, deterministic_objective=True)
        case "nsga2":
            return samplers.NSGAIISampler(seed=seed)
        case "nsga3":
            return samplers.NSGAIIISampler(seed=seed)
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed, x0=start)
        case "random":
            return samplers.RandomSampler(seed=seed)
        case "qmc":  # without scrambling the seed makes no difference
            return samplers.QMCSampler(seed=seed, scramble=True)
