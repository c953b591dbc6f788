"""In what a model was run, as tables and reports say it."""

from collections.abc import Mapping
from typing import Any


def precision(identity: Mapping[str, Any]) -> str:
    """The dtype, and what packs the weights where they are quantised.

    Args:
        identity: of a run or an analysis.
    """
    dtype, packed = str(identity["dtype"]), identity.get("packed")
    return f"{dtype}, weights in {packed}," if packed else dtype
