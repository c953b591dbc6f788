"""`searcher.replay.repair`, under the name that plug-ins import."""

from searcher.replay.repair import (
    LowRank,
    Place,
    Repair,
    ReplacementModule,
    weights_replaced,
)

StandIn = ReplacementModule

__all__ = [
    "LowRank",
    "Place",
    "Repair",
    "ReplacementModule",
    "StandIn",
    "weights_replaced",
]
