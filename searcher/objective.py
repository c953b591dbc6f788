"""`searcher.contracts.objective`, under the name that plug-ins import."""

from searcher.contracts.objective import (
    HEALED,
    Candidate,
    Divergence,
    Objective,
    Reads,
    Reference,
    Split,
    TokenBatch,
)

__all__ = [
    "HEALED",
    "Candidate",
    "Divergence",
    "Objective",
    "Reads",
    "Reference",
    "Split",
    "TokenBatch",
]
