"""What a plan leaves of the model: parameters, bytes of weights, bytes of key-value cache, FLOPs."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from searcher.errors import UsageError
from searcher.objective import Candidate, Objective, Reads


class Parameters(Objective):
    """Parameters that the plan leaves, embeddings and norms among them; tied weights count once."""

    unit = "parameters"
    reads: ClassVar[Reads] = "plan"
    says_size = True

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """The amount that is left."""
        return _left("parameters", candidate)


class WeightsBytes(Objective):
    """Bytes that the weights take in memory, in the dtype they were loaded in."""

    unit = "bytes"
    reads: ClassVar[Reads] = "plan"
    says_size = True

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """The amount that is left."""
        return _left("weights-bytes", candidate)


class KVCache(Objective):
    """Bytes that the key-value cache takes for each token of context.

    Measured on a context as long as the run's windows. Removing the attention of a block frees its cache, removing an
    FFN none.
    """

    unit = "bytes/token"
    reads: ClassVar[Reads] = "plan"
    says_size = True

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """The amount that is left."""
        return _left("kv-cache", candidate)


class Flops(Objective):
    """FLOPs of a forward pass for each token, output head and attention scores among them.

    Counted are matrix products, two operations for each multiply and add, over a context as long as the run's windows.
    """

    unit = "FLOPs/token"
    reads: ClassVar[Reads] = "plan"
    says_size = True

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """The amount that is left."""
        return _left("flops", candidate)


def _left(name: str, candidate: Candidate) -> NDArray[np.float64]:
    if name not in candidate.amounts:
        raise UsageError(
            f"Objective '{name}' cannot be told for a {candidate.config.model_type} model",
            f"It keeps its parts in another way; there is {', '.join(candidate.amounts)}",
        )
    return np.array([candidate.amounts[name].left(candidate.plan)])
