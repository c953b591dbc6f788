"""Floating-point operations per second, against what this machine's matrix products reach."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import Opened, open_model, report, side_by_side
from benchmarks.evaluator import Ours, greedy, greedy_plans
from benchmarks.setting import Setting, command, start
from benchmarks.steps import Steps
from searcher.contracts.plan import Action
from searcher.errors import UsageError
from searcher.evaluation.evaluator import Evaluator

DEFAULTS = Setting()
SIZE = 4
"""Blocks that greedy removes."""


def product_seconds(evaluators: Sequence[Evaluator], weights: Sequence[Tensor], tokens: int) -> float:
    """Seconds of the matrix products of these weights on so many tokens, alone, as fast as torch does them."""
    inputs = [torch.randn(tokens, w.shape[1], device=w.device, dtype=w.dtype) for w in weights]

    def products(_: Evaluator) -> None:
        for given, weight in zip(inputs, weights, strict=True):
            nn.functional.linear(given, weight)

    return side_by_side(evaluators, products, 20)


def linear_weights(opened: Opened) -> list[Tensor]:
    """Of all blocks.

    Raises:
        UsageError: the blocks are not made of plain linear layers.
    """
    blocks = opened.replay.architecture.blocks
    weights = [module.weight for module in blocks.modules() if isinstance(module, nn.Linear)]
    if sum(weight.numel() for weight in weights) < 0.9 * sum(parameter.numel() for parameter in blocks.parameters()):
        raise UsageError(
            f"The blocks of {opened.loaded.name} are not plain linear layers, so their operations cannot be counted",
            "Choose a dense model of another family",
        )
    return weights


def main(setting: Setting) -> None:
    """How many floating-point operations per second are achieved, as a share of matrix products alone.

    Those have the model's own shapes, and run in the same dtype and the same run. Operations are those of the linear
    layers and the head (2 for each weight and token); attention scores, norms, activations, softmax and the loss count
    as none, only their time counts.

    Takes 1 minute on 2 cores with AMX, in float32 two.
    """
    with Steps("roofline") as steps:
        opened = open_model(setting)
        size = 1 if setting.quick else SIZE
        steps.expect(30 + greedy_plans(opened.replay.num_blocks, size))
        evaluators, ids = opened.at_work()
        weights, head = linear_weights(opened), opened.loaded.model.get_output_embeddings().weight

        def all_blocks(evaluator: Evaluator) -> None:
            hidden = evaluator.replay.embed(ids)
            for block in range(evaluator.replay.num_blocks):
                hidden = evaluator.replay.run_block(hidden, block, Action.KEEP)

        parts: list[tuple[str, list[Tensor], Callable[[Evaluator], object]]] = [
            ("blocks", weights, all_blocks),
            ("head and loss", [head], lambda e: e.replay.head.losses(e.replay.embed(ids), ids)),
        ]
        rows: list[dict[str, Any]] = []
        rate: list[float] = []
        for name, multiplied, call in parts:
            steps.at(name)
            flops = 2 * ids.numel() * len(evaluators) * sum(weight.numel() for weight in multiplied)
            rate.append(flops / min(product_seconds(evaluators, multiplied, ids.numel()) for _ in range(2)))
            rows.append(_row(name, flops / min(side_by_side(evaluators, call, 4) for _ in range(2)), rate[-1]))
            steps.done(15)
        rows.append(_whole_search(opened, size, sum(w.numel() for w in weights), head.numel(), rate, steps))
    title = f"Share of the matrix-product rate: {opened.described}, {len(evaluators)} x {ids.numel()} tokens at a time"
    report(setting, f"roofline-{opened.kind}", title, rows)


def _whole_search(
    opened: Opened, size: int, in_blocks: int, in_head: int, rate: Sequence[float], steps: Steps
) -> dict[str, Any]:
    """Greedy from the first ask to the last score: journal, threads and all."""
    steps.at(f"greedy {size}")
    ours, blocks = Ours(opened, steps.done), opened.replay.num_blocks
    started = time.perf_counter()
    greedy(blocks, size, ours.score)
    seconds = time.perf_counter() - started
    per_weight = 2 * opened.ids.numel()
    flops = per_weight * ours.timed.run * in_blocks / blocks, per_weight * ours.timed.heads * in_head
    ideal = sum(part / possible for part, possible in zip(flops, rate, strict=True))
    return _row(f"greedy {size}, all of it", sum(flops) / seconds, sum(flops) / ideal)


def _row(name: str, achieved: float, possible: float) -> dict[str, Any]:
    return {
        "part": name,
        "GFLOP/s": achieved / 1e9,
        "matrix products alone": possible / 1e9,
        "share": achieved / possible,
    }


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)
