"""Floating-point operations per second that are achieved, against what this machine's matrix products reach at the
model's own shapes, in the same dtype and the same run.

    python -m benchmarks.roofline --dtype bfloat16

Operations are those of the linear layers and the head (2 for each weight and token); attention scores, norms,
activations, softmax and the loss count as none, only their time counts.
"""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.common import Opened, open_model, report, side_by_side
from benchmarks.evaluator import Ours, greedy
from searcher.evaluator import Evaluator
from searcher.plan import Action, Granularity


def product_seconds(evaluators: Sequence[Evaluator], weights: Sequence[Tensor], tokens: int) -> float:
    """Seconds of the matrix products of these weights on so many tokens, alone, as fast as torch does them."""
    inputs = [torch.randn(tokens, w.shape[1], device=w.device, dtype=w.dtype) for w in weights]

    def products(_: Evaluator) -> None:
        for given, weight in zip(inputs, weights, strict=True):
            nn.functional.linear(given, weight)

    return side_by_side(evaluators, products, 20)


def main(
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32")] = "auto",
    windows: int = 8,
    window_tokens: int = 128,
    device: str = "auto",
) -> None:
    """Print the table and write it."""
    opened = open_model(dtype, windows, window_tokens, Granularity.BLOCK, device=device)
    crew = opened.warm_crew()
    evaluators, ids = crew._evaluators, crew.groups["search"][0].ids.to(opened.loaded.device)
    tokens, blocks = ids.numel(), opened.replay.num_blocks
    layers = [[m.weight for m in b.modules() if isinstance(m, nn.Linear)] for b in opened.replay.architecture.blocks]
    head = opened.loaded.model.get_output_embeddings().weight

    def all_blocks(evaluator: Evaluator) -> None:
        hidden = evaluator.replay.embed(ids)
        for block in range(blocks):
            hidden = evaluator.replay.run_block(hidden, block, Action.KEEP)

    parts: list[tuple[str, list[Tensor], Callable[[Evaluator], object]]] = [
        ("blocks", [weight for layer in layers for weight in layer], all_blocks),
        ("head and loss", [head], lambda e: e.replay.head.losses(e.replay.embed(ids), ids)),
    ]
    rows: list[dict[str, Any]] = []
    rate: dict[str, float] = {}
    for name, weights, call in parts:
        flops = 2 * tokens * len(evaluators) * sum(weight.numel() for weight in weights)
        alone = min(product_seconds(evaluators, weights, tokens) for _ in range(2))
        seconds = min(side_by_side(evaluators, call, 4) for _ in range(2))
        rate[name] = flops / alone
        rows.append(_row(name, flops / seconds, rate[name]))
    rows.append(_whole_search(opened, layers, head, rate))
    kind = str(opened.loaded.dtype).removeprefix("torch.")
    report(
        f"roofline-{opened.loaded.device.type}-{kind}",
        f"Share of the matrix-product rate: {opened.loaded.name}, {kind}, {len(evaluators)} x {tokens} tokens",
        rows,
    )


def _whole_search(opened: Opened, layers: list[list[Tensor]], head: Tensor, rate: dict[str, float]) -> dict[str, Any]:
    """Greedy 4 from the first ask to the last score: journal, threads and all."""
    ours, tokens = Ours(opened), opened.ids.numel()
    started = time.perf_counter()
    greedy(opened.replay.num_blocks, Granularity.BLOCK, 4, ours.score)
    seconds = time.perf_counter() - started
    in_blocks = 2 * tokens * ours.timed.run * sum(w.numel() for layer in layers for w in layer) / len(layers)
    in_heads = 2 * tokens * ours.timed.heads * head.numel()
    ideal = in_blocks / rate["blocks"] + in_heads / rate["head and loss"]
    return _row("greedy 4, all of it", (in_blocks + in_heads) / seconds, (in_blocks + in_heads) / ideal)


def _row(name: str, achieved: float, possible: float) -> dict[str, Any]:
    return {
        "part": name,
        "GFLOP/s": achieved / 1e9,
        "matrix products alone": possible / 1e9,
        "share": achieved / possible,
    }


if __name__ == "__main__":
    typer.run(main)
