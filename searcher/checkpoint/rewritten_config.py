"""The `config.json` of a checkpoint without some blocks: the original's, in which only what must change is changed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from searcher.architecture.pruned_config import config_of
from searcher.checkpoint.block_names import BlockNames
from searcher.loading.pretrained import quietly
from searcher.loading.special_checkpoints import PACKED_FILES, PACKED_KEYS, read_config

CONFIG = "config.json"


def rewritten(
    folder: Path, name: str, trust: bool, num_blocks: int, kept: Sequence[int], names: BlockNames
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of the new file, and what transformers is to make of it.

    Args:
        folder: of the original checkpoint.
        name: of the model, for messages.
        trust: whether to run code that comes with the model.
        num_blocks: of the original.
        kept: numbers of blocks that are kept, in order.
        names: of blocks.

    Returns:
        Two JSON objects.

    Raises:
        NamesDoNotFitError: it names several blocks in one expression.
    """
    config = config_in(folder, trust)
    content, before = read_config(folder, name), as_json(config)
    with config_of(config, num_blocks, kept):
        after = as_json(config)
        _change(content, before, after)
        for alias, field in type(config).attribute_map.items():  # a file may use either
            if alias in content and after.get(field) != before.get(field):
                content[alias] = after[field]
    return _packing_renamed(content, names), _packing_renamed(after, names)


def side_file(path: Path, names: BlockNames) -> str | None:
    """The new content of a file beside the config that says how weights are packed; None if it is no such file.

    Raises:
        NamesDoNotFitError: it names several blocks in one expression.
    """
    if path.name not in PACKED_FILES or path.suffix != ".json":
        return None
    return json.dumps(names.in_config(json.loads(path.read_text(encoding="utf-8"))), indent=2) + "\n"


def config_in(folder: Path, trust: bool) -> Any:
    """The config of a checkpoint, as transformers reads it."""
    with quietly():
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust)


def as_json(config: Any) -> dict[str, Any]:
    """A config of transformers as plain JSON values, without what does not belong to the model."""
    content: dict[str, Any] = _bare(json.loads(config.to_json_string(use_diff=False)))
    return content


def _bare(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _bare(one) for key, one in value.items() if key not in ("_name_or_path", "transformers_version")}


def _change(content: dict[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    for key, value in after.items():
        if value == before.get(key):
            continue
        if isinstance(value, dict) and isinstance(content.get(key), dict) and isinstance(before.get(key), dict):
            _change(content[key], before[key], value)
        else:
            content[key] = value


def _packing_renamed(config: dict[str, Any], names: BlockNames) -> dict[str, Any]:
    renamed = {key: names.in_config(value) if key in PACKED_KEYS else value for key, value in config.items()}
    if isinstance(text := renamed.get("text_config"), dict):
        renamed["text_config"] = _packing_renamed(text, names)
    return renamed
