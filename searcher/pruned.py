"""The model itself without a plan's parts, as long as a `with` statement lasts: for generation and whole forwards."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from searcher.architecture import Architecture
from searcher.plan import Action, PrunePlan
from searcher.recording import Outputs, without


@contextmanager
def pruned(model: Any, architecture: Architecture, outputs: Outputs, plan: PrunePlan) -> Iterator[Any]:
    """Take the plan's blocks out of the model and silence its sublayers; afterwards not one bit has changed.

    Blocks and their `layer_idx` are numbered anew and every per-layer list of the config is shortened, so that masks
    and the key-value cache fit. No weight is copied.

    Args:
        model: a transformers causal LM.
        architecture: where it keeps its parts.
        outputs: what they return.
        plan: what to remove.

    Yields:
        The same model, pruned.
    """
    kept = [i for i in range(architecture.num_blocks) if plan.action(i) is not Action.GONE]
    silent = [m for i in kept for m in architecture.removed_by(i, plan.action(i))]
    with ExitStack() as stack:
        stack.enter_context(_config_filtered(model.config, architecture.num_blocks, kept))
        stack.enter_context(_renumbered(architecture.blocks, kept))
        stack.enter_context(without(outputs, silent))
        stack.enter_context(_blocks_kept(architecture.blocks, kept))
        yield model


@contextmanager
def _blocks_kept(blocks: nn.ModuleList, kept: list[int]) -> Iterator[None]:
    before = blocks._modules
    try:
        blocks._modules = {str(new): before[str(old)] for new, old in enumerate(kept)}
        yield
    finally:
        blocks._modules = before


@contextmanager
def _renumbered(blocks: nn.ModuleList, kept: list[int]) -> Iterator[None]:
    """Blocks find their place in the cache by `layer_idx`."""
    indexed = [(m, new) for new, old in enumerate(kept) for m in blocks[old].modules() if hasattr(m, "layer_idx")]
    before = [(module, module.layer_idx) for module, _ in indexed]
    try:
        for module, index in indexed:
            setattr(module, "layer_idx", index)  # noqa: B010 - any module may have one, but nn.Module declares none
        yield
    finally:
        for module, old_index in before:
            module.layer_idx = old_index


@contextmanager
def _config_filtered(config: Any, num_blocks: int, kept: list[int]) -> Iterator[None]:
    """Per-layer lists are found by their length; the modules hold the same config object, and so see the change."""
    configs = {id(c): c for c in (config, config.get_text_config(decoder=True))}.values()
    before = [(c, dict(vars(c))) for c in configs]
    try:
        for changed, fields in before:
            if getattr(changed, "num_hidden_layers", None) == num_blocks:
                changed.num_hidden_layers = len(kept)
            for name, value in fields.items():
                if isinstance(value, list | tuple) and len(value) == num_blocks:
                    setattr(changed, name, type(value)(value[i] for i in kept))
        yield
    finally:
        for changed, fields in before:
            vars(changed).clear()
            vars(changed).update(fields)
