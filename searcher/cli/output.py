"""How a result is printed for programs."""

import json
from typing import Any

from searcher.runs.stdout import result_stream


def print_json(document: dict[str, Any]) -> None:
    """Print a JSON document, the result of a command."""
    from searcher.runs.measurement import to_plain_json

    text = json.dumps(to_plain_json(document), indent=2, allow_nan=False)
    result_stream().write(f"{text}\n")
