"""Whether a copied checkpoint computes what its source does without the removed blocks, weights read block by block."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.loading.dtypes import stored_dtype
from searcher.loading.pretrained import quietly
from searcher.loading.streamed_model import can_stream, open_streamed
from searcher.replay.replay import Replay
from searcher.replay.self_check import probe_of


def check_streamed(source: Path, plan: PrunePlan, folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """Replay a window through both, in the dtype of the checkpoint; use under `torch.inference_mode()`.

    Args:
        source: folder of the original.
        plan: what was removed from it.
        folder: the copy.
        trust_remote_code: whether code of its own may be run.

    Returns:
        `replayed`: how many tokens; nothing where weights cannot be read block by block.

    Raises:
        UsageError: states or losses are not the same, bit for bit.
    """
    if not (can_stream(source) and can_stream(folder)):
        return {}
    here, there = (_run(place, one, trust_remote_code) for place, one in ((source, plan), (folder, PrunePlan())))
    if not all(torch.equal(one, other) for one, other in zip(here, there, strict=True)):
        raise UsageError(
            "The checkpoint is not what was measured: its hidden states or losses are others",
            "This is an error of searcher: report it",
        )
    return {"replayed": here[0].shape[1]}


def _run(folder: Path, plan: PrunePlan, trust_remote_code: bool) -> tuple[Tensor, Tensor]:
    """The states after the last block, and the losses, of random tokens."""
    options = {"trust_remote_code": True} if trust_remote_code else {}
    dtype = stored_dtype(folder) or torch.float32
    with quietly():
        found = open_streamed(folder, str(folder), dtype, torch.device("cpu"), folder.name, options)
    ids = probe_of(found.model)
    replay = Replay(found.model, ids)
    ((_, hidden),) = replay.states(ids, [plan])
    losses = replay.head.losses(hidden, ids)
    found.store.let_go()
    return hidden, losses
