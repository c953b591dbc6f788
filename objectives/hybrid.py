"""Loss and divergence together: what chooses between plans best on few windows."""

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from objectives.divergence import KL
from objectives.loss import Loss
from searcher.contracts.objective import Candidate


class Hybrid(KL):
    """The loss, and besides the divergence from the dense model: (loss + kl * KL(dense || plan)) / (1 + kl).

    The loss is what is wanted, but it says as much about the text of a window as about the plan. The divergence varies
    less from window to window, and would be the expected rise of the loss if the dense model had written the text.
    Together they choose the better of two plans more often than either alone where windows are few (see
    `python -m benchmarks.choices` and benchmarks/README.md, from which the weight is taken). It takes no output head
    besides that of the loss.

    Args:
        kl: how much the divergence weighs, relative to the loss.
    """

    unit = "nats/token"
    kind: ClassVar = "kl"

    def __init__(self, kl: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0) -> None:
        super().__init__()
        self.weight = kl

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """The weighted mean of both over the scored tokens of each window."""
        divergence, loss = super().measure(candidate), Loss().measure(candidate)
        rows: NDArray[np.float64] = (loss + self.weight * divergence) / (1 + self.weight)
        return rows
