"""`searcher.contracts.strategy`, under the name that plug-ins import."""

from searcher.contracts.strategy import (
    Ask,
    Outcome,
    Scores,
    Search,
    SearchStopped,
    Strategy,
    order_by_score,
)

__all__ = [
    "Ask",
    "Outcome",
    "Scores",
    "Search",
    "SearchStopped",
    "Strategy",
    "order_by_score",
]
