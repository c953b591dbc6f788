"""`searcher.replay.repair`, under the name that plug-ins import."""

from searcher.replay.repair import (
    LowRank,
    Place,
    Repair,
    StandIn,
    weights_replaced,
)

__all__ = [
    "LowRank",
    "Place",
    "Repair",
    "StandIn",
    "weights_replaced",
]
