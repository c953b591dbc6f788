"""The config of a model of which blocks are gone: what it holds an entry of for each block, and what names blocks.

Which fields these are is asked of the config's own class, not guessed from a length.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

NEVER = ("_id", "_ids", "_token", "_tokens", "architectures")
"""Ends of names of fields that are never per block, however long their lists are."""
BY_NAME = ("layer", "block")
"""Parts of names of fields that are per block where the class does not say."""

BLOCK_NUMBERS = ("mlp_only_layers", "moe_layers", "full_attn_idxs")
"""Fields of configs that list numbers of blocks."""
BLOCK_COUNTS = ("first_k_dense_replace", "num_dense_layers")
"""Fields of configs that say how many of the first blocks are of a kind."""


@contextmanager
def config_of(config: Any, num_blocks: int, sources: Sequence[int]) -> Iterator[None]:
    """Let the config be that of a model of these blocks of the given one, as long as a `with` statement lasts.

    Lists with an entry for each block are shortened, fields that name blocks by number are found by their names.
    The modules hold the same config object, and so see the change.

    Args:
        config: of the model, of transformers.
        num_blocks: it has.
        sources: for each block that there will be, the one it is like.
    """
    configs = {id(c): c for c in (config, config.get_text_config(decoder=True))}.values()
    before = [(c, dict(vars(c))) for c in configs]
    try:
        for changed, fields in before:
            if getattr(changed, "num_hidden_layers", None) != num_blocks:
                continue
            per_block = per_block_fields(changed, num_blocks)
            changed.num_hidden_layers = len(sources)
            for name, value in fields.items():
                if name in BLOCK_NUMBERS and isinstance(value, list | tuple):
                    setattr(changed, name, [place for place, source in enumerate(sources) if source in value])
                elif name in BLOCK_COUNTS and isinstance(value, int):
                    setattr(changed, name, sum(source < value for source in sources))
                elif name in per_block:
                    setattr(changed, name, type(value)(value[i] for i in sources))
        yield
    finally:
        for changed, fields in before:
            vars(changed).clear()
            vars(changed).update(fields)


def per_block_fields(config: Any, num_blocks: int) -> list[str]:
    """Names of the lists in a config that have an entry for each of its blocks.

    A field whose list the class makes longer for a deeper model is one, and a list in a field for which the class has
    a single number: so blocks are told apart. One whose list stays as long is none. Fields of which the class knows
    nothing are told by their names.

    Args:
        config: of transformers, that of the text model.
        num_blocks: of the model.
    """
    lists = [n for n, v in vars(config).items() if isinstance(v, list | tuple) and len(v) == num_blocks]
    candidates = [name for name in lists if not name.startswith("_") and not name.endswith(NEVER)]
    if not candidates:
        return []
    others = [
        made for blocks in (num_blocks + 1, num_blocks + 2) if (made := _deeper(config, lists, blocks)) is not None
    ]
    return [
        name for name in candidates if _per_block(name, [getattr(other, name, None) for other in others], num_blocks)
    ]


def _per_block(name: str, values: list[Any], num_blocks: int) -> bool:
    lengths = [len(value) for value in values if isinstance(value, list | tuple)]
    if lengths:
        return lengths == [num_blocks + 1, num_blocks + 2]
    if values and all(isinstance(value, int | float) for value in values):
        return True
    return any(part in name for part in BY_NAME)


def _deeper(config: Any, lists: list[str], num_blocks: int) -> Any:
    """A config of the same class with more blocks and without these lists; None if there is none."""
    for content in _contents(config, lists):
        try:
            return type(config)(**content, num_hidden_layers=num_blocks)
        except Exception:  # the classes of transformers and of others raise whatever they like
            continue
    return None


def _contents(config: Any, lists: list[str]) -> Iterator[dict[str, Any]]:
    """The config's own values, or none at all, where these do not go with another number of blocks."""
    depth = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    left_out = {*lists, depth, "num_hidden_layers", "model_type", "transformers_version", "searcher_notes", "dtype"}
    yield {name: value for name, value in config.to_dict().items() if name not in left_out}
    yield {}
