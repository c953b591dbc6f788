"""Is a copied checkpoint what it should be? Read with another reader than it was written with, a piece at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from searcher.checkpoint.copying import CopySource, Done
from searcher.checkpoint.rewritten_config import as_json, config_in
from searcher.checkpoint.shards import read_shards
from searcher.checkpoint.skeleton import read_skeleton
from searcher.checkpoint.tensor_file import StoredTensor
from searcher.errors import UsageError
from searcher.loading.pretrained import BROKEN

PIECE = 1 << 25
"""Bytes of a tensor that are compared at a time."""
SMALLER_THAN_A_BYTE = ("F4", "F6")
"""How names of dtypes begin whose tensors have no slices."""
MAPPED = 1 << 27
"""Bytes of a file that are read before it is mapped anew: pages that were read count as memory of the process."""


@dataclass(frozen=True)
class _Piece:
    """Some rows of a tensor; of one without dimensions, all of it."""

    before: StoredTensor
    after: StoredTensor
    rows: slice | None
    group: int


def check_copy(source: CopySource, folder: Path, done: Done) -> dict[str, Any]:
    """Compare a copy with its original: every tensor bit for bit, and names and shapes with what its config makes.

    Args:
        source: what was copied.
        folder: of the copy.
        done: told of each share of the bytes that has been compared.

    Returns:
        `tensors` and `tensor_bytes`: what was compared; `built`: whether transformers built the model of the copy's
        config, without weights, and found in the files what it needs. A quantised one it cannot build everywhere.

    Raises:
        UsageError: it is another model.
    """
    tensors = _compare_tensors(source, folder, done)
    _compare_config(source, folder)
    if not source.packed:
        _compare_structure(source, folder)
    return {"tensors": tensors, "tensor_bytes": source.bytes, "built": not source.packed}


def _compare_tensors(source: CopySource, folder: Path, done: Done) -> int:
    copied = read_shards(folder, folder.name)
    after = copied.tensors if copied else {}
    left = {name: one for shard in source.shards.files for one, name in source.left(shard)}
    if after.keys() != left.keys():
        raise _wrong(f"'{min(after.keys() ^ left.keys())}' is only in one of them")
    total = max(1, source.bytes)
    for _, pieces in groupby(_pieces([(one, after[name]) for name, one in left.items()]), lambda piece: piece.group):
        for piece, size in _compare_group(list(pieces)):
            if size < 0:
                raise _wrong(f"the tensor '{piece.after.name}' differs")
            done(size / total)
    return len(left)


def _pieces(pairs: list[tuple[StoredTensor, StoredTensor]]) -> Iterator[_Piece]:
    """All tensors in pieces; those of one group may be mapped together."""
    group, mapped, files = 0, 0, None
    for before, after in sorted(pairs, key=lambda pair: (str(pair[0].path), pair[0].start)):
        if files != (before.path, after.path):
            files, group, mapped = (before.path, after.path), group + 1, 0
        for rows, size in _rows(before):
            if mapped and mapped + size > MAPPED:
                group, mapped = group + 1, 0
            mapped += size
            yield _Piece(before, after, rows, group)


def _rows(tensor: StoredTensor) -> Iterator[tuple[slice | None, int]]:
    if not tensor.shape or not tensor.bytes or tensor.dtype.startswith(SMALLER_THAN_A_BYTE):
        yield None, tensor.bytes
        return
    row = tensor.bytes / tensor.shape[0]
    step = max(1, int(PIECE / row))
    for first in range(0, tensor.shape[0], step):
        yield slice(first, first + step), int(row * min(step, tensor.shape[0] - first))


def _compare_group(pieces: list[_Piece]) -> Iterator[tuple[_Piece, int]]:
    """Each piece with the bytes that were the same; -1 if they are not."""
    with safe_open(pieces[0].before.path, "pt") as one, safe_open(pieces[0].after.path, "pt") as other:
        for piece in pieces:
            if piece.before.dtype.startswith(SMALLER_THAN_A_BYTE):
                same = all(a == b for a, b in zip(piece.before.chunks(), piece.after.chunks(), strict=True))
                yield piece, piece.before.bytes if same and piece.before.dtype == piece.after.dtype else -1
                continue
            before, after = _read(one, piece.before.name, piece.rows), _read(other, piece.after.name, piece.rows)
            same = (
                before.dtype == after.dtype and before.shape == after.shape and torch.equal(_raw(before), _raw(after))
            )
            yield piece, before.nbytes if same else -1


def _read(file: Any, name: str, rows: slice | None) -> Tensor:
    found: Tensor = file.get_tensor(name) if rows is None else file.get_slice(name)[rows]
    return found


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_raw(one), _raw(other))


def _raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor: so a NaN equals itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _compare_config(source: CopySource, folder: Path) -> None:
    """What transformers makes of the written config must be what it was to be."""
    try:
        found = as_json(config_in(folder, source.trust))
    except BROKEN as error:
        raise _wrong(f"its config cannot be read ({error})") from error
    wanted = source.configs[1]
    if different := [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]:
        raise _wrong(f"its config says otherwise of {', '.join(sorted(different))}")


def _compare_structure(source: CopySource, folder: Path) -> None:
    """transformers, on the device `meta`, must find in the copy what it found in the original, under the new names."""
    try:
        copied = read_skeleton(folder, source.skeleton.model.dtype, source.trust)
    except BROKEN as error:
        raise _wrong(f"transformers cannot build it ({error})") from error
    shapes = source.skeleton.shapes()
    wanted = {name: shape for old, shape in shapes.items() if (name := source.names.module(old)) is not None}
    if copied.shapes() != wanted:
        raise _wrong("its config makes another model")
    before, after = source.skeleton.info or {}, copied.info or {}
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        old = [str(key) for key in before.get(kind, ())]
        known = {rename(key) for key in old for rename in (source.names.tensor, source.names.module)}
        if strange := sorted({str(key) for key in after.get(kind, ())} - known):
            raise _wrong(f"'{strange[0]}' is among its {kind.replace('_', ' ')}")


def _wrong(what: str) -> UsageError:
    return UsageError(
        f"The checkpoint is not a copy of the original: {what}", "This is an error of searcher: report it"
    )
