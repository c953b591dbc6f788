"""What a strategy has noted, as plain JSON values, checked as soon as it arrives."""

from typing import Any

from pydantic_core import to_jsonable_python

from searcher.contracts.strategy import Outcome
from searcher.errors import UsageError, first_line

SUMMARY = "summary"
"""The note whose lines are shown to the user."""


def plain_notes(outcome: Outcome, strategy: str) -> dict[str, Any]:
    """The notes of an outcome; numbers and arrays of NumPy become those of Python.

    Args:
        outcome: of a search.
        strategy: its name, for messages.

    Raises:
        UsageError: a note is not JSON, with its name.
    """
    if not isinstance(outcome.notes, dict):
        raise UsageError(
            f"The notes of strategy '{strategy}' are of type {type(outcome.notes).__name__}", "Make them a dict"
        )
    notes = {str(name): _plain(name, note, strategy) for name, note in outcome.notes.items()}
    lines = notes.get(SUMMARY, [])
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise _not_plain(SUMMARY, strategy, f"{type(lines).__name__}, not a list of lines", "Make it a list of texts")
    return notes


def _plain(name: Any, note: Any, strategy: str) -> Any:
    try:
        return to_jsonable_python(note, fallback=_numbers, inf_nan_mode="constants", serialize_unknown=False)
    except (ValueError, TypeError) as error:
        raise _not_plain(name, strategy, first_line(error), "Note numbers, texts, lists and dicts of these") from error


def _not_plain(name: Any, strategy: str, reason: str, hint: str) -> UsageError:
    return UsageError(
        f"The note '{name}' of strategy '{strategy}' is no JSON value ({reason})",
        f"{hint}; what was measured is kept, and a run under another --name takes it over",
    )


def _numbers(value: Any) -> Any:
    """Of an array, or a number, of NumPy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"it holds a {type(value).__name__}")
