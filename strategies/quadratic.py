"""A quadratic model of what removing units costs, fitted on measured plans, and the plans it holds best."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.stats import spearmanr

from searcher.contracts.plan import PrunePlan
from searcher.contracts.scoreboard import removal_matrix
from searcher.contracts.space import Space

PAIR_SHARES = (0.02, 0.1, 0.5)
"""Prior variances of a pair's coefficient, relative to a single unit's, that are tried."""
NOISES = (1e-3, 1e-2, 1e-1)
"""Variances of what the model cannot say, relative to that of the scores, that are tried."""
CONSTANT = 10.0
"""Prior variance of the constant, relative to that of the scores: large, so that they decide it."""
CHOSEN_ON = 250
"""Plans that the variances are chosen on, which takes the cube of their number several times."""
STEPS = 200
"""Of a tabu search."""
BESIDE = 8
"""Plans next to each step of tabu search that are looked at too."""
ENUMERABLE = 50_000
"""Plans up to which all are looked at to find those the model holds best; beyond, tabu search."""


@dataclass(frozen=True)
class Quadratic:
    """f(x) = constant + sum_i a_i x_i + sum_{i<j} b_ij x_i x_j, with x_i = 1 where unit i is removed.

    Attributes:
        constant: the model's value of the dense model.
        single: float64 (units,), a.
        pair: float64 (units, units), symmetric with zero diagonal, b.
    """

    constant: float
    single: NDArray[np.float64]
    pair: NDArray[np.float64]

    def predict(self, removed: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 (plans,) for a removal matrix, float64 (plans, units)."""
        quadratic = np.einsum("pi,ij,pj->p", removed, self.pair, removed, optimize=True) / 2
        found: NDArray[np.float64] = self.constant + removed @ self.single + quadratic
        return found

    def rounded(self) -> "Quadratic":
        """With coefficients of twelve decimals, so that what a linear solver leaves to chance decides nothing."""
        return Quadratic(round(self.constant, 12), self.single.round(12), self.pair.round(12))


def fit(removed: NDArray[np.float64], scores: NDArray[np.float64], size: int) -> Quadratic:
    """The posterior mean of the coefficients under normal priors, whose variances leave-one-out chooses.

    It is a Gaussian process with the kernel c + v (o + s o (o - 1) / 2), where o counts the units that two plans both
    remove: that is the quadratic model, solved in as many unknowns as there are plans (Rasmussen & Williams 2006,
    "Gaussian Processes for Machine Learning", section 2.1; leave-one-out: equations 5.10 to 5.12). What plans of
    another size say about those of the full size is less sure, so their noise grows with the distance.

    Args:
        removed: float64 (plans, units), which units each plan removes; the variances are chosen on the first of them.
        scores: float64 (plans,), finite.
        size: the size that the model should be good at.
    """
    offset, scale = scores.mean(), scores.std() or 1.0
    targets = (scores - offset) / scale
    first = slice(CHOSEN_ON)
    share, noise = min(
        product(PAIR_SHARES, NOISES),
        key=lambda prior: _error_left_out(removed[first], targets[first], size, *prior),
    )
    kernel, variance = _kernel(removed, size, share, noise)
    weights = cho_solve(cho_factor(kernel), targets) * scale / variance
    pair = share * (removed.T * weights) @ removed
    np.fill_diagonal(pair, 0.0)
    without_constant = Quadratic(0.0, removed.T @ weights, pair)
    return replace(without_constant, constant=float((scores - without_constant.predict(removed)).mean())).rounded()


def _kernel(removed: NDArray[np.float64], size: int, share: float, noise: float) -> tuple[NDArray[np.float64], float]:
    """float64 (plans, plans): covariances of scores of unit variance; and what they were divided by for that."""
    shared = removed @ removed.T
    prior = shared + share * shared * (shared - 1) / 2
    variance = float(prior.diagonal().mean()) or 1.0
    return prior / variance + CONSTANT + np.diag(noise * _distances(removed, size)), variance


def _distances(removed: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """float64 (plans,): 1 for plans of this size, growing with the square of what they differ by."""
    squares: NDArray[np.float64] = 1.0 + (removed.sum(axis=1) - size) ** 2
    return squares


def _error_left_out(
    removed: NDArray[np.float64], targets: NDArray[np.float64], size: int, share: float, noise: float
) -> float:
    """The mean squared error of predicting each plan from all the others, those near the size counting most."""
    inverse = np.linalg.inv(_kernel(removed, size, share, noise)[0])
    errors = inverse @ targets / inverse.diagonal()
    return float(np.average(errors**2, weights=1 / _distances(removed, size)))


def lowest(
    model: Quadratic, space: Space, size: int, starts: Sequence[PrunePlan], count: int
) -> list[tuple[float, PrunePlan]]:
    """The plans of this size with the lowest predictions, ascending: of all there are, where they can be enumerated.

    Args:
        model: the predictions.
        space: what is legal.
        size: of the plans.
        starts: plans of this size from which tabu search sets out.
        count: how many plans are wanted.
    """
    if space.count(size) <= ENUMERABLE:
        found = _enumerated(model, space, size, count)
    else:
        found = {chosen: value for start in starts for chosen, value in _tabu(model, space, start).items()}
    best = sorted((value, chosen) for chosen, value in found.items())[:count]
    return [(value, PrunePlan.of(space.units[i] for i in chosen)) for value, chosen in best]


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Spearman's, None where one of them does not vary."""
    if len(set(predicted)) < 2 or len(set(measured)) < 2:
        return None
    return float(spearmanr(predicted, measured).statistic)


def _enumerated(model: Quadratic, space: Space, size: int, count: int) -> dict[tuple[int, ...], float]:
    """The best of all legal sets of so many units, by their positions."""
    removed = space.removals(size)
    values = model.predict(removed.astype(np.float64))
    best = values.argsort(kind="stable")[:count]
    chosen = (tuple(np.flatnonzero(row).tolist()) for row in removed[best])
    return dict(zip(chosen, values[best].tolist(), strict=True))


def _tabu(model: Quadratic, space: Space, start: PrunePlan) -> dict[tuple[int, ...], float]:
    """The sets of units on a walk that always takes the best swap, never back within a few steps, and those beside it.

    Source: Glover 1989 (ORSA Journal on Computing 1, "Tabu Search - Part I").
    """
    removed = removal_matrix([start], space)[0]
    value = float(model.predict(removed[None])[0])
    tenure = max(2, len(removed) // 6)
    free_again = np.zeros(len(removed))  # step at which a unit may move again
    seen: dict[tuple[int, ...], float] = {tuple(np.flatnonzero(removed).tolist()): value}
    for step in range(STEPS):
        gone, left = np.flatnonzero(removed), np.flatnonzero(removed == 0)
        marginal = model.single + model.pair @ removed
        change = marginal[left] - marginal[gone, None] - model.pair[np.ix_(gone, left)]
        for i, j in islice(_legal_swaps(space, gone, left, change), BESIDE):
            beside = tuple(sorted({*gone.tolist(), int(left[j])} - {int(gone[i])}))
            seen[beside] = value + float(change[i, j])
        change[free_again[gone] > step, :] = np.inf
        change[:, free_again[left] > step] = np.inf
        best = next(_legal_swaps(space, gone, left, change), None)
        if best is None:
            break
        i, j = best
        value += float(change[i, j])
        removed[gone[i]], removed[left[j]] = 0.0, 1.0
        free_again[[gone[i], left[j]]] = step + tenure
    return seen


def _legal_swaps(
    space: Space, gone: NDArray[np.int64], left: NDArray[np.int64], change: NDArray[np.float64]
) -> Iterator[tuple[int, int]]:
    """The legal swaps of a removed unit for one that is left, those first that change the prediction for the best.

    Args:
        space: what is legal.
        gone: positions of the units that are removed.
        left: positions of the others.
        change: float64 (gone, left), infinite where a swap is out of the question.
    """
    may = space.swap_rule(gone.tolist())
    for place in change.argsort(axis=None, kind="stable").tolist():
        i, j = divmod(place, len(left))
        if not np.isfinite(change[i, j]):
            return
        if may(int(gone[i]), int(left[j])):
            yield i, j
