"""What a few windows say about plans, and how surely: a quadratic model of the loss with a posterior.

The mean score of a plan on the windows of a look is modelled as

    c_windows + sum_i a_i x_i + sum_{i<j} b_ij x_i x_j + d_plan + noise,

with x_i = 1 where unit i is removed, all terms normal: c is what the windows of a look do to all plans (wide), a and b
are the costs of units and pairs, d is what the plan has of its own, and the variance of the noise is that measured
between windows, divided by their number. So plans that were seen on different windows are compared by what the same
looks say of both, and a plan seen on few windows by little more than by its units.

Source: Gaussian-process regression in as many unknowns as there are measurements (Rasmussen & Williams 2006, "Gaussian
Processes for Machine Learning", sections 2.1 and 2.2; marginal likelihood: equation 2.30); draws by conditioning a draw
from the prior (Matheron's rule; Wilson et al. 2020, arXiv:2002.09309, equation 9).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky

from searcher.contracts.plan import PrunePlan
from searcher.contracts.space import Space
from strategies.looks import Looks
from strategies.quadratic import Quadratic

PAIR_SHARES = (0.02, 0.1, 0.5)
"""Prior variances of a pair's coefficient, relative to a single unit's, that are tried."""
OWN_SHARES = (1e-3, 1e-2, 1e-1)
"""Variances of what a plan has of its own, relative to that of the scores, that are tried."""
COMMON = 10.0
"""Prior variance of what the windows of a look do to all plans, relative to that of the scores: large, so that they
decide it."""
REACH, ALIKE = 1.5, 0.5
"""Units of a kind cost alike where they are near: of the prior variance of a unit this share is common to neighbours,
and falls off by e for so many blocks."""
CHOSEN_ON = 250
"""Measurements, the latest, that the two shares are chosen on: that takes the cube of their number several times."""
CHOOSE_AGAIN = 1.5
"""They are chosen again when there are so many times as many measurements."""
FIT_ON = 1500
"""Measurements, the latest, that are fitted."""
FAR = 4.0
"""How many times the usual distance of a look's median from its best is far."""
LEAST_NOISE = 1e-6
"""Variance of the noise, relative to that of the scores, that is assumed at least: it keeps a fit solvable."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class _Seen:
    """Measurements as arrays, one entry for each plan of each look; scores are scaled to unit variance."""

    removed: Numbers
    scores: Numbers
    looks: NDArray[np.int64]
    plans: NDArray[np.int64]
    noise: Numbers
    distance: Numbers

    def last(self, count: int) -> "_Seen":
        return _Seen(*(getattr(self, name)[-count:] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Posterior:
    """What is known of the plans of one size.

    Attributes:
        looks: what was seen.
        mean: the expected quadratic model.
        own: by plan that was looked at, what it is expected to have of its own.
        spread: the standard deviation of the scores that were fitted; all the rest is in the unit of a score.
    """

    looks: Looks
    mean: Quadratic
    own: dict[PrunePlan, float]
    spread: float
    _prior: "_Prior"
    _seen: _Seen
    _factor: Numbers

    def expected(self, plans: Sequence[PrunePlan]) -> Numbers:
        """float64 (plans,): the posterior means, up to a constant common to all plans."""
        return _values(self.mean, self.own, plans, self.looks.removed(plans))

    def order(self, plans: Sequence[PrunePlan]) -> list[PrunePlan]:
        """The plans, those first that are expected to be best; ties by plan."""
        values = self.expected(plans).round(12).tolist()
        return [plan for _, plan in sorted(zip(values, plans, strict=True))]

    def draw(self, rng: np.random.Generator) -> tuple[Quadratic, dict[PrunePlan, float]]:
        """A model drawn from the posterior, and what each plan that was looked at has of its own in it."""
        prior, seen = self._prior, self._seen
        single, pair = prior.sample(seen.removed.shape[1], rng)
        own = rng.standard_normal(len(self.own)) * np.sqrt(prior.own)
        common = rng.standard_normal(int(seen.looks.max()) + 1) * np.sqrt(COMMON)
        drawn = Quadratic(0.0, single, pair)
        told = drawn.predict(seen.removed) + own[seen.plans] + common[seen.looks]
        told += rng.standard_normal(len(told)) * np.sqrt(seen.noise + prior.own * (seen.distance - 1))
        weights = cho_solve((self._factor, True), seen.scores - told)
        change = prior.explained(seen.removed, weights)
        own += prior.own * np.bincount(seen.plans, weights, len(own))
        total = Quadratic(0.0, (single + change.single) * self.spread, (pair + change.pair) * self.spread)
        return total.rounded(), dict(zip(self.own, (own * self.spread).tolist(), strict=True))

    def lowest(self, plans: Sequence[PrunePlan], draws: int, rng: np.random.Generator) -> list[PrunePlan]:
        """The plans that are the best of these in some draw (Thompson sampling), as many draws as asked for."""
        found: dict[PrunePlan, None] = {}
        removed = self.looks.removed(plans)
        for _ in range(draws):
            values = _values(*self.draw(rng), plans, removed).round(12)
            left = (i for i in values.argsort(kind="stable") if plans[i] not in found)
            if (first := next(left, None)) is not None:
                found[plans[first]] = None
        return list(found)


@dataclass(frozen=True)
class _Prior:
    """Variances before anything was seen, for scores of unit variance.

    Attributes:
        alike: float64 (units, units), covariances of the costs of single units.
        factor: the Cholesky factor of these, lower.
        pair: variance of the cost of a pair.
        own: variance of what a plan has of its own.
    """

    alike: Numbers
    factor: Numbers
    pair: float
    own: float

    def covariance(self, seen: _Seen) -> Numbers:
        """float64 (measurements, measurements)."""
        shared = seen.removed @ seen.removed.T
        found = seen.removed @ self.alike @ seen.removed.T + self.pair * shared * (shared - 1) / 2
        found += self.own * (seen.plans[:, None] == seen.plans) + COMMON * (seen.looks[:, None] == seen.looks)
        found += np.diag(seen.noise + self.own * (seen.distance - 1))
        return found

    def explained(self, removed: Numbers, weights: Numbers) -> Quadratic:
        """The model that these weights of the measurements stand for."""
        pair = self.pair * (removed.T * weights) @ removed
        np.fill_diagonal(pair, 0.0)
        return Quadratic(0.0, self.alike @ (removed.T @ weights), pair)

    def sample(self, units: int, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
        """Coefficients: float64 (units,) and (units, units), symmetric with zero diagonal."""
        single = self.factor @ rng.standard_normal(units)
        upper = np.triu(rng.standard_normal((units, units)) * np.sqrt(self.pair), 1)
        return single, upper + upper.T


def _values(model: Quadratic, own: dict[PrunePlan, float], plans: Sequence[PrunePlan], removed: Numbers) -> Numbers:
    values: Numbers = model.predict(removed) + np.array([own.get(plan, 0.0) for plan in plans])
    return values


@dataclass
class Surrogate:
    """Fits posteriors as looks come in.

    Attributes:
        looks: of the search.
    """

    looks: Looks
    _shares: tuple[float, float] = (PAIR_SHARES[0], OWN_SHARES[0])
    _alike: Numbers = field(init=False)
    _chosen_at: int = 0
    _fitted: dict[int, tuple[int, Posterior]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._alike = _alike(self.looks.space)

    def posterior(self, size: int) -> Posterior | None:
        """The posterior after all looks so far, for plans of this size; None where every plan breaks the model.

        What plans of another size say is less sure: for those, what a plan has of its own grows with the difference.
        """
        count = len(self.looks.taken)
        if size in self._fitted and self._fitted[size][0] == count:
            return self._fitted[size][1]
        if not any(np.isfinite(look.means).any() for look in self.looks.taken):
            return None
        self._fitted[size] = count, self._fit(size)
        return self._fitted[size][1]

    def order(self, plans: Sequence[PrunePlan], size: int) -> list[PrunePlan]:
        """The plans of this size, those first that are expected to be best; ties by plan."""
        posterior = self.posterior(size) if plans else None
        return sorted(plans) if posterior is None else posterior.order(plans)

    def _fit(self, size: int) -> Posterior:
        plans, seen, spread = _arrays(self.looks, size)
        scale = float(np.einsum("pi,ij,pj->p", seen.removed, self._alike, seen.removed).mean()) or 1.0
        alike = self._alike / scale
        factor = cholesky(alike, lower=True)

        def prior(shares: tuple[float, float]) -> _Prior:
            return _Prior(alike, factor, shares[0] / scale, shares[1])

        if len(seen.scores) >= CHOOSE_AGAIN * self._chosen_at:
            few = seen.last(CHOSEN_ON)
            self._shares = max(product(PAIR_SHARES, OWN_SHARES), key=lambda shares: _likelihood(prior(shares), few))
            self._chosen_at = len(seen.scores)
        return _conditioned(self.looks, prior(self._shares), plans, seen, spread)


def _conditioned(looks: Looks, prior: _Prior, plans: Sequence[PrunePlan], seen: _Seen, spread: float) -> Posterior:
    """The posterior under this prior."""
    factor = cholesky(prior.covariance(seen), lower=True)
    weights = cho_solve((factor, True), seen.scores)
    mean = prior.explained(seen.removed, weights * spread).rounded()
    own = (prior.own * np.bincount(seen.plans, weights, len(plans)) * spread).round(12)
    return Posterior(looks, mean, dict(zip(plans, own.tolist(), strict=True)), spread, prior, seen, factor)


def _arrays(looks: Looks, size: int) -> tuple[list[PrunePlan], _Seen, float]:
    """The plans, the measurements of them, and what their scores were divided by."""
    entries = [(looks.places[look.windows], plan) for look in looks.taken for plan in look.plans][-FIT_ON:]
    softened = _softened(looks)[-FIT_ON:]
    windows = np.concatenate([np.full(len(look.plans), len(look.windows)) for look in looks.taken])[-FIT_ON:]
    plans = list(dict.fromkeys(plan for _, plan in entries))
    number = {plan: i for i, plan in enumerate(plans)}
    removed = looks.removed([plan for _, plan in entries])
    sizes = removed.sum(axis=1)
    spread = float(softened.std()) or 1.0
    noise = np.maximum(looks.noise() / windows / spread**2, LEAST_NOISE)
    of_plans = np.array([number[plan] for _, plan in entries])
    of_looks = np.array([place for place, _ in entries])
    scaled = (softened - softened.mean()) / spread
    distance = 1.0 + (sizes - size) ** 2 / max(1.0, size)
    return plans, _Seen(removed, scaled, of_looks, of_plans, noise, distance), spread


def _softened(looks: Looks) -> Numbers:
    """The scores of all looks in turn, those of plans far worse than the best of their look drawn together.

    How badly a plan breaks the model says little about plans that work, but would dominate a fit by least squares. Far
    is several times the usual distance of a look's median from its best.
    """
    finite = [look.means[np.isfinite(look.means)] for look in looks.taken]
    usual = np.median([np.median(means) - means.min() for means in finite if len(means)])
    bend = FAR * max(float(usual), 1e-9)
    soft = []
    for look, means in zip(looks.taken, finite, strict=True):
        best = means.min(initial=np.inf)
        worse = look.means - best if len(means) else np.zeros(len(look.means))
        bent = np.where(worse > bend, bend * (1 + np.log1p(np.maximum(worse - bend, 0.0) / bend)), worse)
        soft.append(np.where(np.isfinite(bent), bent, bent[np.isfinite(bent)].max()) + (best if len(means) else 0.0))
    return np.concatenate(soft)


def _alike(space: Space) -> Numbers:
    """float64 (units, units): prior covariances of the units' costs, 1 on the diagonal."""
    blocks = np.array([unit.block for unit in space.units])
    same_kind = np.array([[one.part == other.part for one in space.units] for other in space.units])
    near = np.exp(-np.abs(blocks[:, None] - blocks) / REACH) * same_kind
    found: Numbers = (1 - ALIKE) * np.eye(len(blocks)) + ALIKE * near
    return found


def _likelihood(prior: _Prior, seen: _Seen) -> float:
    """The logarithm of the marginal likelihood, up to a constant."""
    factor = cholesky(prior.covariance(seen), lower=True)
    weights = cho_solve((factor, True), seen.scores)
    likelihood: float = -0.5 * float(seen.scores @ weights) - float(np.log(factor.diagonal()).sum())
    return likelihood
