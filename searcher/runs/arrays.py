"""Arrays in files of ours, of which one that is cut short or spoilt is told by its name."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searcher.errors import UsageError, first_line

UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise on bytes that are no arrays, or a part of some."""


def read_arrays(path: Path, hint: str) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file by name, or the one of an `.npy` file under its file's stem.

    Raises:
        UsageError: the file is missing, or is not whole.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except UNREADABLE as error:
        raise UsageError(f"{path} cannot be read ({first_line(error)})", hint) from error
