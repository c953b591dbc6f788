"""`searcher.architecture.replacement_modules`, under the name that plug-ins import."""

from searcher.architecture.replacement_modules import (
    FFN,
    KINDS,
    Inserted,
    LinearMap,
    LowRankMap,
    Nothing,
    Scale,
    Shift,
    SwiGLU,
    build,
    describe,
    keep_count,
    like,
)

__all__ = [
    "FFN",
    "KINDS",
    "Inserted",
    "LinearMap",
    "LowRankMap",
    "Nothing",
    "Scale",
    "Shift",
    "SwiGLU",
    "build",
    "describe",
    "keep_count",
    "like",
]
