"""The usual loop, as pruning scripts run it: one plan at a time, the blocks taken out of the model, a full forward,
full float32 logits, cross-entropy."""

import torch
from torch import Tensor, nn

from benchmarks.common import synchronize
from searcher.plan import Action, PrunePlan

TOKENS = 2048
"""Tokens of a forward, which favours the usual loop; published scripts run one window at a time."""


@torch.inference_mode()
def usual_losses(model: nn.Module, ids: Tensor, plan: PrunePlan) -> Tensor:
    """float32 (windows,): the mean loss of each window under a plan of a Llama model, with all cores at once."""
    layers = model.model.layers
    actions = list(zip(layers, plan.actions(len(layers)), strict=True))
    silenced = [(layer.self_attn, _no_attention) for layer, action in actions if action is Action.NO_ATTENTION]
    silenced += [(layer.mlp, _no_ffn) for layer, action in actions if action is Action.NO_FFN]
    for sublayer, forward in silenced:
        sublayer.forward = forward
    model.model.layers = nn.ModuleList(layer for layer, action in actions if action is not Action.GONE)
    try:
        parts = torch.split(ids.to(model.device), max(1, TOKENS // ids.shape[1]))
        losses = torch.cat([_mean_losses(model, part) for part in parts])
        synchronize()
        return losses
    finally:
        model.model.layers = layers
        for sublayer, _ in silenced:
            del sublayer.forward  # the class's own shows again


def _mean_losses(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits.float()[:, :-1]
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(len(ids), -1).mean(dim=1)


def _no_attention(hidden_states: Tensor, **_: object) -> tuple[Tensor, None]:
    return torch.zeros_like(hidden_states), None


def _no_ffn(hidden_states: Tensor) -> Tensor:
    return torch.zeros_like(hidden_states)
