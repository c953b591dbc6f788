"""A plan of whole blocks written straight from the files of the model: no model is built, and nothing is rounded.

Tensors of blocks that stay go from file to file as bytes, under new names. Memory does not grow with the model.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from searcher.architecture.custom_model import find_notes
from searcher.checkpoint.block_names import BlockNames, NamesDoNotFitError, find_names
from searcher.checkpoint.rewritten_config import CONFIG, rewritten, side_file
from searcher.checkpoint.shards import OTHERS, PLAIN, Shard, Shards, read_shards
from searcher.checkpoint.skeleton import Skeleton, plain_skeleton, read_skeleton
from searcher.checkpoint.tensor_file import StoredTensor, TensorSpec, write_tensors
from searcher.contracts.plan import Part, PrunePlan
from searcher.errors import UsageError, first_line
from searcher.loading.pretrained import BROKEN, check_names, heads_ahead
from searcher.loading.special_checkpoints import packed_by, read_config

Done = Callable[[float], None]
"""Told of each share of the work that is done."""


class CannotBeCopiedError(Exception):
    """Why a plan cannot be written from the files of its model alone."""


@dataclass(frozen=True, eq=False)
class CopySource:
    """A checkpoint that a plan can be written from.

    Attributes:
        folder: of the checkpoint.
        name: of the model.
        shards: its weights.
        skeleton: the model without weights.
        plan: what is removed: whole blocks.
        names: of blocks, before and after.
        packed: by what its weights are quantised, empty if they are ordinary.
        trust: whether to run modelling code that comes with it.
    """

    folder: Path
    name: str
    shards: Shards
    skeleton: Skeleton
    plan: PrunePlan
    names: BlockNames
    packed: str
    trust: bool

    @property
    def kept(self) -> list[int]:
        """Numbers of the blocks that stay, in order."""
        return list(self.names.places)

    @cached_property
    def configs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The new `config.json`, and what transformers is to make of it."""
        return rewritten(self.folder, self.name, self.trust, self.skeleton.num_blocks, self.kept, self.names)

    def left(self, shard: Shard) -> list[tuple[StoredTensor, str]]:
        """The tensors of a file that stay, each with its new name."""
        renamed = ((one, self.names.tensor(one.name)) for one in shard.tensors)
        return [(one, name) for one, name in renamed if name is not None]

    @property
    def bytes(self) -> int:
        """Of all tensors that stay."""
        return sum(one.bytes for shard in self.shards.files for one, _ in self.left(shard))

    @property
    def dtypes(self) -> list[str]:
        """Of the weights, as torch calls them, the commonest first."""
        names = {**PLAIN, **OTHERS}
        return [names.get(name, name) for name, _ in self.shards.numbers().most_common()]


def find_copy_source(folder: Path, name: str, plan: PrunePlan, trust: bool) -> CopySource:
    """Look at the files of a model and find the names of its blocks; no weight is read.

    Args:
        folder: of the checkpoint.
        name: of the model, for messages.
        plan: what is to be removed.
        trust: whether to run modelling code that comes with it.

    Raises:
        CannotBeCopiedError: the files are of another kind, or the names in them do not tell blocks apart.
        UsageError: the files are damaged or do not fit the config, or the plan does not fit the model.
    """
    config = read_config(folder, name)
    if any(unit.part is not Part.BLOCK for unit in plan.removed):
        raise CannotBeCopiedError("the plan removes parts of blocks")
    if find_notes(folder) or config.get("is_encoder_decoder"):
        raise CannotBeCopiedError("it is no ordinary checkpoint of a decoder")
    shards = read_shards(folder, name)
    if shards is None:
        raise CannotBeCopiedError("its weights are not in safetensors")
    packed = packed_by(folder, config)
    skeleton = _skeleton(folder, shards, packed, trust)
    if skeleton.info is not None:
        check_names(skeleton.model, skeleton.info, name)
    plan.check(skeleton.num_blocks)
    gone = {unit.block for unit in plan.removed}
    kept = [block for block in range(skeleton.num_blocks) if block not in gone]
    own, ahead = skeleton.names_in_blocks(), heads_ahead(skeleton.model)
    try:
        names = find_names(shards.tensors, skeleton.path, own, ahead, skeleton.num_blocks, kept)
        source = CopySource(folder, name, shards, skeleton, plan, names, packed, trust)
        _ = source.configs
    except NamesDoNotFitError as error:
        raise CannotBeCopiedError(str(error)) from error
    if packed and not _holds_packed_weights(source):
        raise CannotBeCopiedError(f"its config says that {packed} has quantised it, and its weights are ordinary ones")
    return source


def _skeleton(folder: Path, shards: Shards, packed: str, trust: bool) -> Skeleton:
    plain = Counter({PLAIN[name]: count for name, count in shards.numbers().items() if name in PLAIN})
    dtype: torch.dtype = getattr(torch, plain.most_common(1)[0][0] if plain else "float32")
    try:
        return (plain_skeleton if packed else read_skeleton)(folder, dtype, trust)
    except UsageError as error:
        raise CannotBeCopiedError(error.message) from error
    except BROKEN as error:
        raise CannotBeCopiedError(first_line(error)) from error


def _holds_packed_weights(source: CopySource) -> bool:
    """Whether a tensor of a block is called otherwise than the parameters of a plain one, or of another dtype."""
    own, prefix = source.skeleton.names_in_blocks(), f"{source.names.prefix}."
    within = {name: one for name, one in source.shards.tensors.items() if name.startswith(prefix)}
    return any(
        one.dtype not in PLAIN or name[len(prefix) :].partition(".")[2] not in own for name, one in within.items()
    )


def copy_checkpoint(source: CopySource, folder: Path, done: Done) -> None:
    """Write weights, index and config.

    Args:
        source: what is copied.
        folder: an empty one.
        done: told of each share that is written.

    Raises:
        OSError: it cannot be written.
        UsageError: the original cannot be read any more.
    """
    shards = [(shard, tensors) for shard in source.shards.files if (tensors := source.left(shard))]
    places: dict[str, str] = {}
    total = max(1, source.bytes)
    for number, (shard, tensors) in enumerate(shards, start=1):
        single = source.shards.index is None or len(shards) == 1
        file = SAFE_WEIGHTS_NAME if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        specs = [TensorSpec(name, one.dtype, one.shape, one.bytes) for one, name in tensors]
        metadata = source.names.in_metadata(shard.metadata)
        for written in write_tensors(folder / file, specs, (one.chunks() for one, _ in tensors), metadata):
            done(written / total)
        places |= dict.fromkeys((name for _, name in tensors), file)
    if source.shards.index is not None and len(shards) > 1:
        index = {**source.shards.index, "metadata": _index_metadata(source), "weight_map": dict(sorted(places.items()))}
        _write_json(folder / SAFE_WEIGHTS_INDEX_NAME, index)
    _write_json(folder / CONFIG, source.configs[0])
    for path in sorted(source.folder.iterdir()):
        if (content := side_file(path, source.names)) is not None:
            (folder / path.name).write_text(content, encoding="utf-8")


def _index_metadata(source: CopySource) -> dict[str, Any]:
    """What the index says of the whole, where it says it."""
    metadata = dict((source.shards.index or {}).get("metadata") or {})
    gone = [one for one in source.shards.tensors.values() if source.names.tensor(one.name) is None]
    if isinstance(number := metadata.get("total_parameters"), int):
        metadata["total_parameters"] = number - sum(math.prod(one.shape) for one in gone)
    return {**metadata, "total_size": source.bytes}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
