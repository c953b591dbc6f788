"""The usual loop, as pruning scripts run it: one plan at a time, the blocks taken out of the model, a full forward,
full float32 logits, cross-entropy."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.common import Opened, synchronize
from searcher.contracts.plan import PrunePlan
from searcher.replay.pruned_model import pruned
from searcher.replay.replay import Replay

TOKENS = 2048
"""Tokens of a forward, which favours the usual loop; published scripts run one window at a time."""


@torch.inference_mode()
def usual_losses(replay: Replay, ids: Tensor, plan: PrunePlan) -> Tensor:
    """float32 (windows,): the mean loss of each window, by the model's own forward without a plan's parts, with all
    cores at once."""
    with pruned(replay.model, replay.architecture, replay.outputs, plan) as model:
        parts = torch.split(ids.to(model.device), max(1, TOKENS // ids.shape[1]))
        losses = torch.cat([_mean_losses(model, part) for part in parts])
        synchronize()
        return losses


def usual_loop(
    opened: Opened, plans: Sequence[PrunePlan], done: Callable[[], None] = lambda: None
) -> tuple[float, list[float]]:
    """Seconds of one plan, on average over these, and the mean loss of each; `done` is told of every plan."""
    losses = []
    started = time.perf_counter()
    for plan in plans:
        losses.append(usual_losses(opened.replay, opened.ids, plan).mean().item())
        done()
    return (time.perf_counter() - started) / len(plans), losses


def _mean_losses(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits.float()[:, :-1]
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return losses.view(len(ids), -1).mean(dim=1)
