"""Files that are at every moment either the old one or the new one, whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from searcher.errors import UsageError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what shall be at this path once it is complete; nothing is left if writing it fails.

    Raises:
        UsageError: the folder is missing or cannot be written, or the path is a folder.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror or error})", "Name a file in a folder that exists"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
