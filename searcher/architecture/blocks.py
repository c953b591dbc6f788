"""Where a causal LM keeps its blocks, found by structure, and their sublayers, found by usual names; without tables."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from searcher.architecture.replacement_modules import Nothing
from searcher.contracts.plan import Action
from searcher.errors import UsageError

ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention", "linear_attn", "temporal_block")
FFN_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "mlp_block")


@dataclass(frozen=True)
class Architecture:
    """The removable parts of a model.

    Attributes:
        blocks: the decoder blocks, in order.
        attention: the attention module of each block, None where none was found.
        ffn: the FFN module of each block, None where none was found.
    """

    blocks: nn.ModuleList
    attention: tuple[nn.Module | None, ...]
    ffn: tuple[nn.Module | None, ...]

    @property
    def num_blocks(self) -> int:
        """How many blocks the model has."""
        return len(self.blocks)

    def removed_by(self, block: int, action: Action) -> list[nn.Module]:
        """The sublayers of a block that run nothing under this action (not for `GONE`, which runs no block).

        Raises:
            LookupError: the block has no such sublayer.
        """
        sublayers = ((Action.NO_ATTENTION, self.attention[block]), (Action.NO_FFN, self.ffn[block]))
        removed = [module for bit, module in sublayers if action & bit]
        if None in removed:
            raise LookupError(f"block {block} has no sublayer to remove for {action.name}")
        return [module for module in removed if module is not None]


def alike(architecture: Architecture, config: Any) -> dict[int, list[int]]:
    """Blocks that are built alike, so that what one of them costs the others cost too: the first of each kind, and all.

    Args:
        architecture: whose blocks.
        config: the model's text config, which may give each layer a type.
    """
    types = getattr(config, "layer_types", None) or [None] * architecture.num_blocks
    kinds: dict[Any, list[int]] = {}
    for index, (block, kind) in enumerate(zip(architecture.blocks, types, strict=True)):
        shapes = tuple(parameter.shape for parameter in block.parameters())
        kinds.setdefault((repr(block), shapes, kind), []).append(index)
    return {members[0]: members for members in kinds.values()}


def find_architecture(model: nn.Module) -> Architecture:
    """Find the blocks: the outermost `ModuleList` as long as the config says; their sublayers by the usual names.

    Args:
        model: a transformers causal LM.

    Raises:
        UsageError: the model has no such list.
    """
    config: Any = model.config
    text_config = config.get_text_config(decoder=True)
    num_blocks = getattr(text_config, "num_hidden_layers", None)
    lists = _lists(model, num_blocks)
    if len(lists) > 1 and isinstance(decoder := _decoder(model), nn.Module):  # and not a vision tower of as many layers
        lists = _lists(decoder, num_blocks) or lists
    if not lists:
        raise UsageError(
            f"No list of {num_blocks} blocks found in a {type(model).__name__}",
            "searcher needs a decoder-only model that keeps its blocks in one torch.nn.ModuleList",
        )
    blocks = lists[0]
    return Architecture(
        blocks=blocks,
        attention=tuple(_child(block, ATTENTION_NAMES) for block in blocks),
        ffn=tuple(_child(block, FFN_NAMES) for block in blocks),
    )


def _lists(module: nn.Module, length: Any) -> list[nn.ModuleList]:
    """Lists of so many modules, from the outside in."""
    return [m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m) == length]


def _decoder(model: Any) -> Any:
    """The part of a model that is its language model, where it says so."""
    return model.get_decoder() if hasattr(model, "get_decoder") else None


def _child(block: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    """The sublayer of one of these names; None where a custom checkpoint lacks it."""
    children = {name: child for name, child in block.named_children() if not isinstance(child, Nothing)}
    return next((children[name] for name in names if name in children), None)


def path_of(root: nn.Module, wanted: nn.Module) -> str:
    """The name of a module within another one."""
    name: str = next(name for name, module in root.named_modules() if module is wanted)
    return name


@contextmanager
def forwards_replaced(replacements: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules answer with other functions, and be exactly as before afterwards.

    Only the instance attribute `forward` is set, so module tree, weights, hooks and attributes stay.
    """
    before: dict[nn.Module, Any] = {module: module.__dict__.get("forward") for module in replacements}
    try:
        for module, forward in replacements.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own in before.items():
            if own is None:
                module.__dict__.pop("forward", None)
            else:  # someone else (a device map, say) had wrapped it
                module.__dict__["forward"] = own
