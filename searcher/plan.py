"""`searcher.contracts.plan`, under the name that plug-ins import."""

from searcher.contracts.plan import (
    DENSE,
    Action,
    Budget,
    Granularity,
    Part,
    PrunePlan,
    Unit,
    all_units,
    legal_units,
)

__all__ = [
    "DENSE",
    "Action",
    "Budget",
    "Granularity",
    "Part",
    "PrunePlan",
    "Unit",
    "all_units",
    "legal_units",
]
