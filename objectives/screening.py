"""A cheap loss that ranks plans before they are measured."""

import numpy as np
import torch
from numpy.typing import NDArray

from searcher.contracts.objective import Candidate, Objective

TOP = 8
"""How many of the dense model's likeliest next tokens count at each position."""


class Screening(Objective):
    """The loss among the tokens that matter on these windows: a cheap replacement, to rank plans only.

    The softmax runs over the tokens that occur and those that the dense model holds likely, a few percent of the
    vocabulary; so the output head costs next to nothing. It is lower than the true loss.
    """

    unit = "nats/token"

    def __init__(self) -> None:
        self._vocabulary: dict[str, torch.Tensor] = {}

    def prepare(self, dense: Candidate) -> None:
        """Find the tokens that matter."""
        self._vocabulary[dense.batch] = torch.unique(torch.cat([dense.ids.flatten(), dense.likely(TOP).flatten()]))

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """The mean loss of each window."""
        losses = candidate.losses_among(self._vocabulary[candidate.batch])
        rows: NDArray[np.float64] = losses.cpu().double().mean(dim=1).numpy()
        return rows
