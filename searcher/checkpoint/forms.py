"""The forms a pruned model can be saved in, and the model itself in each of them."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from searcher.architecture.custom_model import CustomModel, become_custom, has_own_code
from searcher.architecture.replacement_modules import Inserted, Nothing, describe
from searcher.contracts.form import Form
from searcher.contracts.plan import Action, PrunePlan
from searcher.errors import UsageError
from searcher.replay.pruned_model import pruned
from searcher.replay.repair import Repair
from searcher.replay.replay import Replay

FORMAT = 1


@dataclass(frozen=True)
class Notes:
    """What a checkpoint says of itself.

    Attributes:
        plan: what was removed, blocks numbered as in the original model.
        form: how it is written.
        silent: of each block of the checkpoint that lacks sublayers, their names within the block, each with what it
            returned: None for a tensor, else the length of a tuple.
        inserted: modules in the list of blocks that are no blocks: their description and what blocks return.
        model_type: of the config that the model has in memory, or would have with all of its parts.
    """

    plan: str
    form: Form
    silent: dict[int, dict[str, int | None]]
    inserted: dict[int, dict[str, Any]]
    model_type: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format": FORMAT, **vars(self), "form": str(self.form)}


def choose_form(plan: PrunePlan, repair: Repair, wanted: Form | None, model: Any) -> Form:
    """The form that was asked for, or else `stock` where it can be and `custom` where not.

    Args:
        plan: what is removed.
        repair: what healing changes.
        wanted: the form that was asked for.
        model: from which it is removed. One that runs code of its own has no form `custom`, and one that lacks parts
            already no other.

    Raises:
        UsageError: this plan or repair cannot be written so.
    """
    if isinstance(model, CustomModel):
        if wanted not in (None, Form.CUSTOM):
            raise UsageError(
                f"The model lacks parts of blocks already, or has others put in, for which the form {wanted} has none",
                "Use --form custom, or prune the original model",
            )
        return Form.CUSTOM
    sublayers = [unit for unit in plan.removed if unit.part != "block"]
    inserted = [place for place, replacement in repair.after.items() if replacement.like is None]
    if wanted is Form.STOCK and sublayers:
        raise UsageError(
            f"Plan {plan} removes {sublayers[0]}, for which ordinary checkpoints have no form",
            "Use --form zeroed, which keeps the size, or --form custom, which searcher.load loads",
        )
    if wanted in (Form.STOCK, Form.ZEROED) and inserted:
        raise UsageError(
            f"The healing puts a module after block {inserted[0][0]}, for which ordinary checkpoints have no place",
            "Use --form custom, or a healing that leaves none, such as lora or linear-folded",
        )
    if wanted is Form.ZEROED and not sublayers:
        return Form.STOCK  # nothing to write zeros for
    chosen = wanted or (Form.CUSTOM if sublayers or inserted else Form.STOCK)
    if chosen is Form.CUSTOM and has_own_code(model):
        raise UsageError(
            "A model that comes with its own code has no form custom",
            "Use a healing that puts no module in, such as lora"
            if inserted
            else f"Use --form {Form.ZEROED if sublayers else Form.STOCK}",
        )
    return chosen


@contextmanager
def in_form(replay: Replay, plan: PrunePlan, repair: Repair, form: Form) -> Iterator[tuple[Any, Notes]]:
    """The model under a plan and repair as it is to be saved; afterwards not one bit of it has changed.

    Yields:
        The model, and what is to be noted with it.
    """
    silent = _silent(replay, plan) if form is not Form.STOCK else {}
    with ExitStack() as stack:
        if form is Form.ZEROED:
            repair = _with_zeros(replay, repair, silent)
        elif form is Form.CUSTOM:
            stack.enter_context(_children_replaced(replay, silent))
        model = stack.enter_context(pruned(replay.model, replay.architecture, replay.outputs, plan, repair))
        yield model, Notes(str(plan), form, *_noted(replay.architecture.blocks), model.config.model_type)


def _noted(blocks: nn.ModuleList) -> tuple[dict[int, dict[str, int | None]], dict[int, dict[str, Any]]]:
    """What the blocks that the model now has lack, and what is in their list but no block, by place."""
    silent, inserted = {}, {}
    for place, block in enumerate(blocks):
        nothings = {name: _length(m.returns) for name, m in block.named_children() if isinstance(m, Nothing)}
        if nothings:
            silent[place] = nothings
        if isinstance(block, Inserted):
            inserted[place] = {"module": describe(block.module), "returns": _length(block.returns)}
    return silent, inserted


def materialised(replay: Replay, plan: PrunePlan, repair: Repair, form: Form, more: dict[str, Any]) -> Any:
    """A model of its own under a plan and repair; its weights are copies.

    In the form `custom` it saves itself with its notes and these values.
    """
    with in_form(replay, plan, repair, form) as (model, notes), torch.inference_mode(False):
        made = copy.deepcopy(model)
    return become_custom(made, {**notes.to_json(), **more}) if form is Form.CUSTOM else made


def _silent(replay: Replay, plan: PrunePlan) -> dict[int, dict[str, nn.Module]]:
    """Of each block that is kept in part: what it lacks, by name within the block."""
    found: dict[int, dict[str, nn.Module]] = {}
    for block, action in enumerate(plan.actions(replay.num_blocks)):
        if action not in (Action.KEEP, Action.GONE):
            removed = replay.architecture.removed_by(block, action)
            children = replay.architecture.blocks[block].named_children()
            found[block] = {name: module for name, module in children if module in removed}
    return found


def _with_zeros(replay: Replay, repair: Repair, silent: dict[int, dict[str, nn.Module]]) -> Repair:
    """The repair with zeros for all weights of silent sublayers.

    That of the output projection alone would do, but a model that is trained further would learn it again.
    """
    modules = {module for names in silent.values() for module in names.values()}
    zeros: dict[str, Tensor] = {}
    for path, module in replay.model.named_modules():
        if module in modules:
            zeros |= {f"{path}.{name}": torch.zeros_like(weight) for name, weight in module.named_parameters()}
    added = {name: one for name, one in repair.added.items() if name not in zeros}
    return Repair(added, {**repair.weights, **zeros}, repair.after)


@contextmanager
def _children_replaced(replay: Replay, silent: dict[int, dict[str, nn.Module]]) -> Iterator[None]:
    try:
        for block, names in silent.items():
            for name, module in names.items():
                nothing = Nothing(replay.outputs.sublayers[module], getattr(module, "layer_idx", None))
                replay.architecture.blocks[block]._modules[name] = nothing
        yield
    finally:
        for block, names in silent.items():
            replay.architecture.blocks[block]._modules.update(names)


def _length(template: Any) -> int | None:
    return len(template) if isinstance(template, tuple | list) else None
