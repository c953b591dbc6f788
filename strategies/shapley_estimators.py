"""Shapley values by the estimators of shapiq: which coalitions they would ask for, and what they make of the answers.

shapiq calls the game whenever it likes, a search asks in batches. The coalitions that these estimators draw do not
depend on what they are told, so an estimator is run twice with one seed: first on a game that is always 0, to learn
what it asks, then on the scores.
"""

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.plan import PrunePlan
from searcher.contracts.space import Space
from searcher.errors import UsageError

Estimator = Literal["stratified", "svarm", "kernelshap", "permutation"]
CLASSES: dict[Estimator, str] = {
    "stratified": "StratifiedSamplingSV",
    "svarm": "SVARM",
    "kernelshap": "KernelSHAP",
    "permutation": "PermutationSamplingSV",
}


def check_installed(estimator: str) -> None:
    """Raises UsageError if there is no shapiq; imports nothing, since its import takes seconds."""
    if importlib.util.find_spec("shapiq") is None:
        raise UsageError(f"Estimator '{estimator}' needs shapiq", 'Install it: pip install "pruneplan[shapiq]"')


def least_samples(space: Space) -> int:
    """How few coalitions still say something about every unit: two for each, nothing removed, and everything."""
    return 2 * len(space.units) + 2


@dataclass(frozen=True)
class Replay:
    """One estimator of shapiq with its coalitions: sets of removed units.

    Args:
        space: of the search, in which any set of units may be removed.
        estimator: see :data:`CLASSES`.
        samples: coalitions at most; shapiq's "budget".
    """

    space: Space
    estimator: Estimator
    samples: int

    @property
    def name(self) -> str:
        """Of the class in shapiq."""
        return CLASSES[self.estimator]

    @cached_property
    def plans(self) -> tuple[PrunePlan, ...]:
        """What it asks about, each once, in its order."""
        asked: dict[PrunePlan, None] = {}

        def listen(coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
            plans = self._plans(coalitions)
            asked.update(dict.fromkeys(plans))
            return np.zeros(len(plans))

        self._run(listen)
        return tuple(asked)

    def values(self, scores: Mapping[PrunePlan, float]) -> NDArray[np.float64]:
        """float64 (units,): the estimated cost of removing each, from the scores of all its plans.

        A broken plan counts as much as the worst that is not, for the estimators add and subtract.
        """
        worst = max(score for score in scores.values() if np.isfinite(score))
        costs = {plan: min(scores[plan], worst) - min(scores[PrunePlan()], worst) for plan in self.plans}
        return self._run(lambda coalitions: np.array([costs[plan] for plan in self._plans(coalitions)]))

    def _plans(self, coalitions: NDArray[np.bool_]) -> list[PrunePlan]:
        rows = np.atleast_2d(coalitions).astype(bool)
        return [PrunePlan.of(self.space.units[i] for i in np.flatnonzero(row)) for row in rows]

    def _run(self, game: Callable[[NDArray[np.bool_]], NDArray[np.float64]]) -> NDArray[np.float64]:
        from shapiq import approximator

        made: Any = getattr(approximator, self.name)(n=len(self.space.units), random_state=self.space.seed)
        with warnings.catch_warnings():  # that there are fewer coalitions than samples, which is no loss
            warnings.simplefilter("ignore")
            found: NDArray[np.float64] = made.approximate(budget=self.samples, game=game).get_n_order_values(1)
        return found
