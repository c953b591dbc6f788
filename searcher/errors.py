"""Errors that a user can mend, and the phrases they share."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something the user asked for cannot be done as asked.

    The command line prints it as one line and a hint and exits with code 2, without a traceback.

    Args:
        message: what came and what was expected, in one line.
        hint: what to do about it, in one line.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'? ` for a misspelt name, to stand before the list of names; empty if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean '{close[0]}'? " if close else ""


def first_line(error: BaseException) -> str:
    """The first line of an error message, not longer than a terminal's, without its full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = " ".join(
        map(str.strip, lines[: 2 if lines[0].rstrip().endswith(":") else 1])
    )  # a colon tells of what follows
    line = line if len(line) <= 200 else f"{line[:199]}…"
    return line.rstrip(". ")
