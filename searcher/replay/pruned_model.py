"""The model itself without a plan's parts, as long as a `with` statement lasts: for generation and whole forwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from searcher.architecture.blocks import Architecture
from searcher.architecture.pruned_config import config_of
from searcher.architecture.replacement_modules import Inserted
from searcher.contracts.plan import Action, PrunePlan
from searcher.replay.block_inputs import Outputs, without
from searcher.replay.repair import Repair, ReplacementModule, weights_replaced

Slot = tuple[nn.Module, int]
"""A module in the list of blocks, and the number of the block in whose place, or like which, it is."""


@contextmanager
def pruned(
    model: Any, architecture: Architecture, outputs: Outputs, plan: PrunePlan, repair: Repair | None = None
) -> Iterator[Any]:
    """Take the plan's blocks out of the model and silence its sublayers; afterwards not one bit has changed.

    Blocks and their `layer_idx` are numbered anew and every per-layer list of the config is shortened, so that masks
    and the key-value cache fit. What a repair puts after a block becomes an element of the list of blocks. No weight
    is copied.

    Args:
        model: a transformers causal LM.
        architecture: where it keeps its parts.
        outputs: what they return.
        plan: what to remove.
        repair: what healing changes.

    Yields:
        The same model, pruned.
    """
    repair = repair or Repair()
    slots = find_slots(architecture, outputs, plan, repair)
    actions = plan.actions(architecture.num_blocks)
    silent = [m for i, a in enumerate(actions) if a is not Action.GONE for m in architecture.removed_by(i, a)]
    with ExitStack() as stack:
        stack.enter_context(weights_replaced(model, repair))
        stack.enter_context(config_of(model.config, architecture.num_blocks, [source for _, source in slots]))
        stack.enter_context(_renumbered([module for module, _ in slots]))
        stack.enter_context(without(outputs, silent))
        stack.enter_context(_blocks_replaced(architecture.blocks, [module for module, _ in slots]))
        yield model


@contextmanager
def counted(model: Any, architecture: Architecture, count: Callable[[int, int], None]) -> Iterator[None]:
    """Tell of every forward pass of the model, whoever asks for it, how many tokens go through its parts.

    Args:
        model: a transformers causal LM, pruned or not.
        architecture: where it keeps its parts.
        count: told of tokens that enter the first block that is left, and of tokens that enter the output head.
    """

    def entered(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        count(hidden.shape[:-1].numel(), 0)

    def read_out(_: nn.Module, args: tuple[Any, ...]) -> None:
        count(0, args[0].shape[:-1].numel())

    first, head = next(iter(architecture.blocks), None), model.get_output_embeddings()
    handles = [first.register_forward_pre_hook(entered, with_kwargs=True)] if first is not None else []
    handles += [head.register_forward_pre_hook(read_out)] if head is not None else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_slots(architecture: Architecture, outputs: Outputs, plan: PrunePlan, repair: Repair) -> list[Slot]:
    """The list of blocks under a plan and a repair: blocks that stay, and what stands after them or in their place."""
    slots: list[Slot] = []
    for block, action in enumerate(plan.actions(architecture.num_blocks)):
        if action is not Action.GONE:
            slots.append((architecture.blocks[block], block))
        if (replacement := repair.after.get((block, action))) is not None:
            slots.append(_slot(replacement, block, architecture, outputs))
    return slots


def _slot(replacement: ReplacementModule, block: int, architecture: Architecture, outputs: Outputs) -> Slot:
    if replacement.like is not None:
        return replacement.module, replacement.like
    return Inserted.like_block(
        architecture.blocks[block], replacement.module, outputs.blocks[block], layer_idx=0
    ), block


@contextmanager
def _blocks_replaced(blocks: nn.ModuleList, modules: Sequence[nn.Module]) -> Iterator[None]:
    before = blocks._modules
    try:
        blocks._modules = {str(number): module for number, module in enumerate(modules)}
        yield
    finally:
        blocks._modules = before


@contextmanager
def _renumbered(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Blocks find their place in the cache by `layer_idx`."""
    indexed = [(m, number) for number, slot in enumerate(modules) for m in slot.modules() if hasattr(m, "layer_idx")]
    before = [(module, module.layer_idx) for module, _ in indexed]
    try:
        for module, number in indexed:
            setattr(module, "layer_idx", number)  # noqa: B010 - any module may have one, but nn.Module declares none
        yield
    finally:
        for module, old in before:
            module.layer_idx = old
