"""What a plan leaves of the model: parameters, bytes of weights, bytes of key-value cache, FLOPs."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.objective import Candidate, Objective
from searcher.errors import UsageError


class Left(Objective):
    """What the plan leaves of an amount that the model's parts take."""

    amount: ClassVar[str]
    """Its name in `candidate.amounts`."""
    reads = "plan"
    says_size = True

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """The amount that is left, with what healing adds."""
        if self.amount not in candidate.amounts:
            raise UsageError(
                f"Objective '{self.amount}' cannot be told for a {candidate.config.model_type} model",
                f"It keeps its parts in another way; there is {', '.join(candidate.amounts)}",
            )
        return np.array([candidate.left(self.amount)])


class Parameters(Left):
    """Parameters that the plan leaves, embeddings and norms among them; tied weights count once."""

    amount = "parameters"
    unit = "parameters"


class WeightsBytes(Left):
    """Bytes that the weights take in memory, in the dtype they were loaded in."""

    amount = "weights-bytes"
    unit = "bytes"


class KVCache(Left):
    """Bytes that the key-value cache takes for each token of context.

    Measured on a context as long as the run's windows. Removing the attention of a block frees its cache, removing an
    FFN none.
    """

    amount = "kv-cache"
    unit = "bytes/token"


class Flops(Left):
    """FLOPs of a forward pass for each token, output head and attention scores among them.

    Counted are matrix products, two operations for each multiply and add, over a context as long as the run's windows.
    """

    amount = "flops"
    unit = "FLOPs/token"
