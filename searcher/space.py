"""`searcher.contracts.space`, under the name that plug-ins import."""

from searcher.contracts.space import (
    MOST_NUMBERS,
    Fits,
    Need,
    Space,
)

__all__ = [
    "MOST_NUMBERS",
    "Fits",
    "Need",
    "Space",
]
