"""Minimising a quadratic model over relaxed plans, which remove each unit with a probability, so many in the mean."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from strategies.quadratic import Quadratic

COLDEST = 0.01
"""The last temperature, relative to the first."""
DAMPING = 0.5
"""The share of a step's probabilities in the next ones; with all of it, units that compete take turns for ever."""
HALVINGS = 40
"""Of the interval in which the multiplier of the size is searched for."""
REACH = 40.0
"""How many temperatures that interval goes beyond the lowest and the highest cost."""


def annealed(
    models: Sequence[Quadratic], size: int, noise: NDArray[np.float64], steps: int, temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minimise each model over relaxed plans of a size, several times, by mean field annealing.

    With unit i removed with probability p_i, independently of the others, a quadratic model has the mean f(p). Its
    minimum beside an entropy of temperature T, over all p of the given sum, has p_i = s((m - df/dp_i - T n_i) / T),
    where s is the logistic function and m the multiplier that keeps the sum. Each step goes half the way there while T
    falls from `temperature` to a hundredth of it, geometrically. Temperatures are in standard deviations of a model's
    single costs. n_i is logistic noise, the difference of two Gumbel variables, taken at the first temperature: the
    gates of Maddison et al. 2017 (arXiv:1611.00712, the binary Concrete distribution), drawn once for each start, so
    that starts end in different minima.

    Args:
        models: of the same units.
        size: units removed, less than all or all of them.
        noise: float64 (starts, units), n.
        steps: of each start.
        temperature: the first.

    Returns:
        float64 (models, starts, units): p after the last step, and df/dp there with the noise: the lower, the sooner a
        unit is to be removed. Rounded to nine decimals of a model's scale, so that what a processor leaves to chance
        decides nothing.
    """
    single, pair = np.array([model.single for model in models]), np.array([model.pair for model in models])
    scale = single.std(axis=1)
    scale[scale == 0] = 1.0
    single, pair = single / scale[:, None], pair / scale[:, None, None]
    disturbed = single[:, None, :] + temperature * noise  # (models, starts, units)
    chances = np.full(disturbed.shape, size / single.shape[1])
    cost = disturbed
    for heat in temperature * np.geomspace(1.0, COLDEST, steps):
        cost = (disturbed + chances @ pair).round(9)
        chances += DAMPING * (_of_sum(-cost / heat, size) - chances)
    return chances.round(9), cost


def _of_sum(logits: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Probabilities s(logits + m) whose sums over the last dimension are the size."""
    if size >= logits.shape[-1]:
        return np.ones_like(logits)
    low = -logits.max(axis=-1, keepdims=True) - REACH
    high = -logits.min(axis=-1, keepdims=True) + REACH
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = expit(logits + middle).sum(axis=-1, keepdims=True) >= size
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    found: NDArray[np.float64] = expit(logits + high)
    return found
