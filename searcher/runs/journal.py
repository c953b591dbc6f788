"""The journal of a run: one fsynced line per measurement, so that a kill loses nothing that was finished."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from filelock import FileLock, Timeout

from searcher.errors import UsageError, first_line
from searcher.runs.files import hint_of, replacing
from searcher.runs.measurement import Measurement, to_plain_json

RUN_FILE = "run.json"
EVALUATIONS_FILE = "evaluations.jsonl"


def read_evaluations(folder: Path) -> Iterator[Measurement]:
    """The measurements of a run folder, in the order they were finished; a torn last line is left out.

    Raises:
        UsageError: a line other than the last cannot be read.
    """
    path = folder / EVALUATIONS_FILE
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn, or empty
        if not line.strip():
            continue
        try:
            yield Measurement.from_json(json.loads(line))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{path}, line {number} is not a measurement ({first_line(error)})",
                "The file was damaged; delete that line, and what it held is measured again",
            ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a run folder.

    Raises:
        UsageError: the file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{path.parent} is not a run folder: it has no {path.name}", "List runs with: searcher list runs"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read ({first_line(error)})", "The file was damaged; start again under another --name"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no JSON object", "The file was damaged; start again under another --name")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object so that the file is at every moment either the old one or the new one, whole.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps(to_plain_json(content), indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


class Journal:
    """The only writer of a run's `evaluations.jsonl`; use it in a `with` statement.

    Args:
        folder: the run folder; made if missing.

    Raises:
        UsageError: another process is writing this run, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Journal":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                f"{self.folder} is being written by another searcher", "Wait for it, or use another --name"
            ) from error
        except OSError as error:
            raise UsageError(
                f"{self.folder} cannot be written ({error.strerror})", hint_of(error, "Choose another --runs-dir")
            ) from error
        path = self.folder / EVALUATIONS_FILE
        _drop_torn_line(path)
        self._file = path.open("ab", buffering=0)
        return self

    def read(self) -> Iterator[Measurement]:
        """The measurements so far, in order; see :func:`read_evaluations`."""
        return read_evaluations(self.folder)

    def append(self, *measurements: Measurement) -> None:
        """Add a line for each and wait until the disk has them.

        Raises:
            OSError: the disk is full or gone; the last line may be torn, those before it are safe.
        """
        assert self._file is not None, "use the journal in a with statement"
        lines = (json.dumps(measurement.to_json(), allow_nan=False).encode() + b"\n" for measurement in measurements)
        left = memoryview(b"".join(lines))
        try:
            while left:  # a disk that is nearly full takes a part without a word, and tells when it is given the rest
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        self._lock.release()


def _drop_torn_line(path: Path) -> None:
    """A line without a newline was torn by a kill; a new one must not be appended to it."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
