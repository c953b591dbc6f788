"""A line of JSON that a user wrote, with whatever is wrong with it told in one line."""

import json
from typing import Any

from searcher.errors import UsageError, first_line

_TYPES = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "an object"}


def parse_line(line: str, place: str, hint: str) -> Any:
    """The value of a line.

    Args:
        line: of the file.
        place: file and line, for the message.
        hint: what a line should be.

    Raises:
        UsageError: it is not JSON, is nested too deeply, or holds text that is not Unicode.
    """
    try:
        value = json.loads(line)
    except RecursionError as error:
        raise UsageError(f"{place} is nested too deeply to be read", hint) from error
    except ValueError as error:  # an integer of too many digits is another than JSONDecodeError
        reason = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)
        raise UsageError(f"{place} is not JSON ({reason})", hint) from error
    if "\\u" in line:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:  # JSON can write half a surrogate pair, which no tokenizer takes
            raise UsageError(f"{place} is not Unicode text ({error.reason})", "Mend the text") from error
    return value


def kind_of(value: Any) -> str:
    """What a value is, as JSON calls it, with its beginning."""
    return "null" if value is None else f"{_TYPES.get(type(value), type(value).__name__)} ({str(value)[:20]})"
