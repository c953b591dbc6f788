"""Loss and perplexity on the text windows."""

import math

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.objective import Candidate, Objective


class Loss(Objective):
    """Mean negative log-likelihood per token of the text windows.

    Every token after the first of a window counts once. Windows have equal length, so the mean over windows is the
    mean over tokens.
    """

    unit = "nats/token"
    within = (0.0, math.inf)

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """The mean loss of each window."""
        rows: NDArray[np.float64] = candidate.losses().cpu().double().mean(dim=1).numpy()
        return rows


class Perplexity(Loss):
    """Perplexity of the text windows: exp of the mean loss over all tokens, never a mean of perplexities."""

    unit = "perplexity"
    within = (1.0, math.inf)

    def finish(self, mean: float) -> float:
        """Perplexity of a mean loss."""
        with np.errstate(over="ignore"):  # infinity is the right answer
            return float(np.exp(mean))
