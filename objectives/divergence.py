"""How far the next-token distributions of a plan are from the dense model's."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.objective import Candidate, Divergence, Objective, Reference


class KL(Objective):
    """Kullback-Leibler divergence KL(dense || plan) of the next-token distributions, a mean over tokens.

    Exact: over the whole vocabulary. It asks what the plan changes, not how well it predicts the text, so text counts
    that the dense model finds hard too. It takes no output head besides that of the losses, which it shares with
    `perplexity`; but two more for models that cap their logits.
    """

    unit = "nats/token"
    within = (0.0, math.inf)
    kind: ClassVar[Divergence] = "kl"

    def __init__(self) -> None:
        self._references: dict[str, Reference] = {}

    def prepare(self, dense: Candidate) -> None:
        """Remember the dense model's distributions."""
        self._references[dense.batch] = dense.reference(self.kind)

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """The mean over the scored tokens of each window."""
        divergence = candidate.divergence(self._references[candidate.batch]).cpu().double()
        scored = candidate.scored.cpu()  # not every accelerator has float64
        rows: NDArray[np.float64] = (divergence.where(scored, 0.0).sum(dim=1) / scored.sum(dim=1)).numpy()
        return rows


class JS(KL):
    """Jensen-Shannon divergence between the next-token distributions of the dense model and the plan.

    A mean over tokens, exact, between 0 and log 2; so a few tokens that the plan gets wrong do not outweigh the rest,
    as they can in `kl`. It takes two output heads besides that of the losses.
    """

    kind = "js"
    within = (0.0, math.log(2))
