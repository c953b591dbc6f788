"""`searcher.contracts.racing`, under the name that plug-ins import."""

from searcher.contracts.racing import (
    FIRST_LOOK,
    GUARD_QUANTILE,
    LEAST_OTHERS,
    Ranking,
    beaten,
    looks,
    rank,
)

__all__ = [
    "FIRST_LOOK",
    "GUARD_QUANTILE",
    "LEAST_OTHERS",
    "Ranking",
    "beaten",
    "looks",
    "rank",
]
