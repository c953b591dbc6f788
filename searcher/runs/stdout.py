"""stdout is for the result of a command alone: whatever prints meanwhile, such as a plug-in, does so on stderr."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TextIO

_kept: list[TextIO] = []


@contextlib.contextmanager
def stdout_for_the_result() -> Iterator[None]:
    """Let all threads print on stderr, but for those who ask for :func:`result_stream`."""
    _kept.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.pop()


def result_stream() -> TextIO:
    """Where the result of a command goes; in Python, where everything goes."""
    return _kept[-1] if _kept else sys.stdout
