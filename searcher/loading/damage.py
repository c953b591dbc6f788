"""What is wrong with a checkpoint that transformers could not load, where its files tell it better than the error."""

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

WEIGHTS = ("*.safetensors", "*.bin")
_LFS = b"version https://git-lfs"
_OLD_PICKLE = b"\x80\x02"


def find_damage(folder: Path) -> str:
    """The first thing found to be wrong with a checkpoint's files; empty if nothing is."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, LookupError):
        return next(_damages(folder), "")
    return ""


def tokens_beyond(config: Mapping[str, Any]) -> Iterator[str]:
    """Special tokens of a config that are not in its vocabulary."""
    text = config.get("text_config")
    content = {**config, **text} if isinstance(text, dict) else config
    size = content.get("vocab_size")
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = content.get(name)
        for token in value if isinstance(value, list) else [value]:
            if isinstance(token, int) and isinstance(size, int) and token >= size:
                yield f"its {name} is {token}, but its vocabulary has {size} tokens (set it to one of them, or to null)"


def _damages(folder: Path) -> Iterator[str]:
    for index in sorted(folder.glob("*.index.json")):
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            yield f"{index.name} names {len(shards)} files, of which {len(missing)} are missing, such as {missing[0]}"
    for path in sorted(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        yield from _damages_of_file(path)
    yield from tokens_beyond(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _damages_of_file(path: Path) -> Iterator[str]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS))
        if start.startswith(_LFS):
            yield f"{path.name} is a pointer of Git LFS, not the weights (fetch them with: git lfs pull)"
        elif path.suffix == ".bin" and not (zipfile.is_zipfile(path) or start.startswith(_OLD_PICKLE)):
            yield f"{path.name} of {size:,} bytes is no file of torch.save, or the beginning of one"
        elif path.suffix == ".safetensors":
            whole = _length(path)
            if size < whole:
                yield f"{path.name} is cut short: it holds {size:,} of {whole:,} bytes"


def _length(path: Path) -> int:
    """Bytes that a safetensors file should have, by what of its header is there."""
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8:
            return 8
        header = file.read(min(length, path.stat().st_size))
    if len(header) < length:
        return 8 + length
    tensors = [tensor for name, tensor in json.loads(header).items() if name != "__metadata__"]
    return 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
