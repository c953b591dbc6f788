"""`searcher.contracts.scoreboard`, under the name that plug-ins import."""

from searcher.contracts.scoreboard import (
    RIDGE,
    Scoreboard,
    largest,
    removal_matrix,
)

__all__ = [
    "RIDGE",
    "Scoreboard",
    "largest",
    "removal_matrix",
]
