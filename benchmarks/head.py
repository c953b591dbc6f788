"""The output head with its loss, in every way there is, at the model's own shapes.

    python -m benchmarks.head --dtype bfloat16

On a CPU torch has three ways: full float32 logits, `linear_cross_entropy`, and our slices of the vocabulary. The fused
kernels of other libraries (Liger, cut-cross-entropy) are written in Triton, which has no CPU.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.common import open_model, report, side_by_side
from searcher import head as head_module
from searcher.evaluator import Evaluator
from searcher.head import FusedHead
from searcher.plan import Granularity

SLICES = (1024, 2048, 4096, 8192, 16384)


def main(
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32")] = "auto", tokens: int = 512, device: str = "auto"
) -> None:
    """Print the table and write it."""
    opened = open_model(dtype, max(2, tokens // 64), 128, Granularity.BLOCK, device=device)
    crew = opened.warm_crew()
    place = opened.loaded.device
    ids = opened.ids[: max(1, tokens // 128)].to(place)
    weight = opened.loaded.model.get_output_embeddings().weight
    with torch.inference_mode():
        hidden = opened.replay.embed(ids)
        flat = hidden.flatten(0, 1)

    def naive(_: Evaluator) -> Tensor:
        logits = nn.functional.linear(flat, weight).float()
        return nn.functional.cross_entropy(logits[:-1], ids.flatten()[1:], reduction="none")

    def of(evaluator: Evaluator) -> FusedHead:
        assert isinstance(evaluator.replay.head, FusedHead)
        return evaluator.replay.head

    ways: dict[str, Callable[[Evaluator], object]] = {
        "matrix product alone": lambda _: nn.functional.linear(flat, weight),
        "full float32 logits": naive,
        "linear_cross_entropy": lambda e: of(e).losses_by_torch(hidden, ids),
        **{f"slices of {size}": lambda e: of(e).losses_in_slices(hidden, ids) for size in SLICES},
    }
    rows: list[dict[str, Any]] = []
    for name, way in ways.items():
        if name.startswith("slices"):
            head_module.SLICE = int(name.split()[-1])
        seconds = min(side_by_side(crew._evaluators, way, 6) for _ in range(3))
        rows.append({"way": name, "us per token": seconds / ids.numel() / len(crew._evaluators) * 1e6})
    for row in rows:
        row["to the product"] = row["us per token"] / rows[0]["us per token"]
    kind = str(opened.loaded.dtype).removeprefix("torch.")
    title = f"Head and loss: {opened.loaded.name}, {kind}, {len(crew._evaluators)} x {ids.numel()} tokens"
    report(f"head-{place.type}-{kind}", title, rows)


if __name__ == "__main__":
    typer.run(main)
