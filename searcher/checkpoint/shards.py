"""The weight files of a checkpoint, known from their headers and the index; faults are told before anything is copied.

shard: one of the safetensors files that hold a model's weights; an index says which tensor is in which of them.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from searcher.checkpoint.tensor_file import StoredTensor, read_header
from searcher.errors import UsageError
from searcher.loading.damage import find_damage

PLAIN = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Dtypes of ordinary weights, as safetensors and as torch call them."""
OTHERS = {"U8": "uint8", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "BOOL": "bool"}
OTHERS |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}
"""Dtypes that quantised weights are kept in besides, the same way."""
_HINT = "Save or fetch the model again"


@dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
        path: of the file.
        tensors: in it, in the order of their bytes.
        metadata: of the file.
    """

    path: Path
    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Shards:
    """All weights of a checkpoint.

    Attributes:
        files: in the order of their names.
        index: content of the index; None where all weights are in one file without one.
    """

    files: tuple[Shard, ...]
    index: Mapping[str, Any] | None

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """All tensors by name."""
        return {one.name: one for shard in self.files for one in shard.tensors}

    def numbers(self) -> Counter[str]:
        """How many numbers there are of each dtype, as safetensors calls it."""
        found: Counter[str] = Counter()
        for one in self.tensors.values():
            found[one.dtype] += math.prod(one.shape)
        return found


def read_shards(folder: Path, name: str) -> Shards | None:
    """The weights that transformers reads from a folder; None if it has none in safetensors.

    Args:
        folder: of the checkpoint.
        name: of the model, for messages.

    Raises:
        UsageError: a file is missing or cut short, or the index names tensors that are not in their file.
    """
    try:
        if (folder / SAFE_WEIGHTS_NAME).is_file():
            return Shards((_read(folder / SAFE_WEIGHTS_NAME),), None)
        if not (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
            return None
        index = _read_index(folder / SAFE_WEIGHTS_INDEX_NAME)
        wanted = sorted(set(index["weight_map"].values()))
        if missing := [file for file in wanted if not (folder / file).is_file()]:
            raise UsageError(
                f"{SAFE_WEIGHTS_INDEX_NAME} names {len(wanted)} files, of which {len(missing)} are missing, "
                f"such as {missing[0]}",
                _HINT,
            )
        files = tuple(_read(folder / file) for file in wanted)
        _refuse_strangers(index["weight_map"], files)
    except UsageError as error:
        raise UsageError(f"Model '{name}' is damaged: {error.message}", error.hint) from error
    return Shards(files, index)


def _read(path: Path) -> Shard:
    try:
        tensors, metadata = read_header(path)
    except UsageError as error:
        raise UsageError(find_damage(path.parent) or error.message, error.hint) from error
    return Shard(path, tuple(tensors.values()), metadata)


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(file, str) for file in index["weight_map"].values()):
            return dict(index)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    raise UsageError(f"{path.name} cannot be read", _HINT)


def _refuse_strangers(places: Mapping[str, str], files: tuple[Shard, ...]) -> None:
    held = {shard.path.name: {one.name for one in shard.tensors} for shard in files}
    strangers = sorted(name for name, file in places.items() if name not in held[Path(file).name])
    if strangers:
        more = f" and {len(strangers) - 1} others" if len(strangers) > 1 else ""
        file = places[strangers[0]]
        raise UsageError(f"{SAFE_WEIGHTS_INDEX_NAME} names '{strangers[0]}'{more}, but {file} does not hold it", _HINT)
