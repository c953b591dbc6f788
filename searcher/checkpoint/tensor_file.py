"""Safetensors files, read and written tensor by tensor: bytes go from file to file and never become a tensor.

The format: eight bytes with the length of the header, the header in JSON, then the bytes of all tensors without gaps.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searcher.errors import UsageError

CHUNK = 1 << 24
"""Bytes that are in memory at a time."""
METADATA = "__metadata__"
_LONGEST_HEADER = 100_000_000
"""Bytes that the library of the format reads at most."""
_HINT = "Save or fetch the model again"


@dataclass(frozen=True)
class TensorSpec:
    """What a header says of a tensor.

    Attributes:
        name: of the tensor.
        dtype: as safetensors calls it, such as `BF16`.
        shape: of the tensor.
        bytes: that it takes in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class StoredTensor(TensorSpec):
    """A tensor in a file.

    Attributes:
        path: of the file.
        start: of its first byte in the file.
    """

    path: Path
    start: int

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, `CHUNK` at a time at most.

        Raises:
            UsageError: the file cannot be read, or is shorter than it was when its header was read.
        """
        left = self.bytes
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            while left:
                chunk = self._read(file, min(CHUNK, left))
                left -= len(chunk)
                yield chunk

    def _read(self, file: Any, size: int) -> bytes:
        try:
            chunk: bytes = file.read(size)
        except OSError as error:  # and not one of the disk that is written to
            raise UsageError(f"{self.path} cannot be read: {error.strerror or error}", _HINT) from error
        if not chunk:
            raise UsageError(f"{self.path} ends within '{self.name}'", _HINT)
        return chunk


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a file in the order of their bytes, and its metadata.

    Raises:
        UsageError: it is missing, cut short or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError
            header: dict[str, Any] = json.loads(file.read(length)) if length <= size - 8 else {}
        metadata = header.pop(METADATA, {})
        tensors = [_stored(path, 8 + length, name, one) for name, one in header.items()]
    except OSError as error:
        raise UsageError(f"{path.name} cannot be read: {error.strerror or error}", _HINT) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{path.name} is no safetensors file: its header cannot be read", _HINT) from error
    whole = max((one.start + one.bytes for one in tensors), default=8 + length)
    if size < whole:
        raise UsageError(f"{path.name} is cut short: it holds {size:,} of {whole:,} bytes", _HINT)
    return {one.name: one for one in sorted(tensors, key=lambda one: one.start)}, metadata


def _stored(path: Path, data: int, name: str, found: Mapping[str, Any]) -> StoredTensor:
    first, last = found["data_offsets"]
    return StoredTensor(name, found["dtype"], tuple(found["shape"]), last - first, path, data + first)


def write_tensors(
    path: Path, tensors: Sequence[TensorSpec], content: Iterable[Iterable[bytes]], metadata: Mapping[str, str]
) -> Iterator[int]:
    """Write a file, tensor by tensor.

    Args:
        path: of the new file.
        tensors: what will be in it, in this order.
        content: the bytes of each, in pieces.
        metadata: of the file.

    Yields:
        After each piece: the bytes that it had.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb", buffering=0) as file:
        _write_all(file, _header(tensors, metadata))
        for chunks in content:
            for chunk in chunks:
                _write_all(file, chunk)
                yield len(chunk)


def _header(tensors: Sequence[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for one in tensors:
        header[one.name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": [end, end + one.bytes]}
        end += one.bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return len(text).to_bytes(8, "little") + text


def _write_all(file: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:  # a raw file may take less than it is given
        view = view[file.write(view) :]
