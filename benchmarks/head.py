"""The output head with its loss, in every way there is."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.common import open_model, report, side_by_side
from benchmarks.setting import Setting, command, start
from benchmarks.steps import Steps
from searcher.errors import UsageError
from searcher.evaluation.evaluator import Evaluator
from searcher.replay import head as head_module
from searcher.replay.head import FusedHead

DEFAULTS = Setting()
SLICES = (1024, 2048, 4096, 8192, 16384)


def fused(evaluator: Evaluator) -> FusedHead:
    """The head of an evaluator.

    Raises:
        UsageError: the model has another one.
    """
    head = evaluator.replay.head
    if not isinstance(head, FusedHead):
        raise UsageError("The output head of this model is not a plain linear layer", "Choose another model")
    return head


def main(setting: Setting) -> None:
    """How long the output head and its loss take in every way there is, at the model's own shapes.

    On a CPU torch has three ways: full float32 logits, `linear_cross_entropy`, and our slices of the vocabulary. The
    fused kernels of other libraries (Liger, cut-cross-entropy) are written in Triton, which has no CPU.

    Takes half a minute on 2 cores with AMX, in float32 one.
    """
    with Steps("head") as steps:
        opened = open_model(setting)
        evaluators, ids = opened.at_work()
        weight, head = opened.loaded.model.get_output_embeddings().weight, fused(evaluators[0])
        with torch.inference_mode():
            hidden = opened.replay.embed(ids)
            flat = head.scored_states(hidden)
        targets = ids[:, 1:].flatten()

        def naive(_: Evaluator) -> Tensor:
            return nn.functional.cross_entropy(nn.functional.linear(flat, weight).float(), targets, reduction="none")

        ways: dict[str, Callable[[Evaluator], object]] = {
            "matrix product alone": lambda _: nn.functional.linear(flat, weight),
            "full float32 logits": naive,
            "linear_cross_entropy": lambda e: fused(e).losses_by_torch(hidden, ids),
        }
        sliced = {f"slices of {size}": size for size in SLICES}
        ways |= dict.fromkeys(sliced, lambda e: fused(e).losses_in_slices(hidden, ids))
        steps.expect(len(ways))
        rows: list[dict[str, Any]] = []
        for name, way in ways.items():
            steps.at(name)
            with patch.object(head_module, "SLICE", sliced.get(name, head_module.SLICE)):
                seconds = min(side_by_side(evaluators, way, 6) for _ in range(3))
            rows.append({"way": name, "us per token": seconds / ids.numel() / len(evaluators) * 1e6})
            steps.done()
    for row in rows:
        row["to the product"] = row["us per token"] / rows[0]["us per token"]
    title = f"Head and loss: {opened.described}, {len(evaluators)} x {ids.numel()} tokens at a time"
    report(setting, f"head-{opened.kind}", title, rows)


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)
