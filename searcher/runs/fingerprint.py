"""Fingerprints: of JSON values, and of a checkpoint folder, which changes with its weights and is cheap to make."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

_WEIGHTS = ("*.safetensors", "*.bin")
_PIECES, _PIECE = 16, 4096  # bytes of a tensor that its fingerprint reads: 16 pieces of 4 KiB


def digest_of(values: Mapping[str, Any]) -> str:
    """A sha256 over JSON values, in whatever order they are named."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def packed_fingerprint(fingerprint: str, packed: str) -> str:
    """The fingerprint of a model whose weights are packed so; the same if they are plain."""
    return f"{fingerprint}+{packed.replace(' ', '-')}" if packed else fingerprint


def plain_fingerprint(fingerprint: str) -> str:
    """The fingerprint of the checkpoint that a model was loaded from, without what packs its weights."""
    return fingerprint.partition("+")[0]


def fingerprint_folder(folder: Path) -> str:
    """A sha256 over a checkpoint's config, code and sampled weights; `searcher.loading.model.load_model` says which."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.py")]):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    for path in sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            for start, end in _spans(path, file):
                _sample(file, start, end, digest.update)
    return f"folder:{digest.hexdigest()}"


def _spans(path: Path, file: BinaryIO) -> list[tuple[int, int]]:
    """The byte ranges to sample: the header and every tensor of a safetensors file; else the file in 64 parts."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(min(length, size)))
            offsets = [value["data_offsets"] for key, value in header.items() if key != "__metadata__"]
            return [(0, 8 + length), *((8 + length + start, 8 + length + end) for start, end in sorted(offsets))]
        except (ValueError, LookupError, TypeError, AttributeError):  # loading it will tell what is wrong
            pass
    return [(size * part // 64, size * (part + 1) // 64) for part in range(64)]


def _sample(file: BinaryIO, start: int, end: int, update: Any) -> None:
    """Feed evenly spaced pieces of a byte range, the first and last bytes among them, or all of a short one."""
    if end - start <= _PIECES * _PIECE:
        starts, length = [start], end - start
    else:
        starts, length = [start + (end - start - _PIECE) * i // (_PIECES - 1) for i in range(_PIECES)], _PIECE
    for position in starts:
        file.seek(position)
        update(file.read(length))
