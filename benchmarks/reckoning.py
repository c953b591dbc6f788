"""What a greedy search with streamed weights takes, reckoned on paper from the shape of a model and stated rates."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from transformers import LlamaConfig

from benchmarks.common import report
from benchmarks.setting import Setting, start
from benchmarks.shapes import SHAPES, config_of
from searcher.contracts.plan import PrunePlan, Unit
from searcher.contracts.trie import layer_forwards, plan_path


@dataclass(frozen=True)
class Shape:
    """A Llama, as far as it costs something.

    Attributes:
        blocks: how many.
        width: the hidden size.
        inner: width of the FFN.
        keys: numbers of a token's keys, and of its values.
        vocabulary: rows of the embedding, and of the head.
        bytes: of a number.
    """

    blocks: int
    width: int
    inner: int
    keys: int
    vocabulary: int
    bytes: int = 2

    @property
    def block(self) -> int:
        """Parameters of a block, norms left out."""
        return self.width * (2 * self.width + 2 * self.keys + 3 * self.inner)

    @property
    def head(self) -> int:
        """Parameters of the head."""
        return self.width * self.vocabulary


def shape_of(config: LlamaConfig) -> Shape:
    """What a config says of it, in a dtype of two bytes."""
    keys = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    return Shape(config.num_hidden_layers, config.hidden_size, config.intermediate_size, keys, config.vocab_size)


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second, and has room for.

    Attributes:
        flops: of matrix products.
        disk: bytes that are read.
        states: bytes of hidden states that there is room for.
    """

    flops: float
    disk: float
    states: float


def reckon(shape: Shape, removed: int, tokens: int, rates: Rates) -> list[dict[str, Any]]:
    """A row for each round of greedy over blocks, and one for all of them.

    Of a round, every plan's states wait at a block at a time, as
    :class:`searcher.evaluation.streamed_executor.StreamedExecutor` has it; the head and the blocks that any plan runs
    are read once for each sweep. Computing and reading go on at the same time: the longer of them counts.
    """
    rows = [_round(shape, gone, tokens, rates) for gone in range(removed)]
    total = {name: sum(row[name] for row in rows) for name in rows[0] if name != "round"}
    return [*rows, {"round": "all", **total, "GB of states": max(row["GB of states"] for row in rows)}]


def _round(shape: Shape, gone: int, tokens: int, rates: Rates) -> dict[str, Any]:
    left = range(gone, shape.blocks)  # which ones are gone changes the sharing of prefixes: here the first of them
    plans = [PrunePlan.of(map(Unit, [*range(gone), block])) for block in left]
    forwards = layer_forwards([plan_path(plan, shape.blocks) for plan in plans], (1.0, 0.0, 0.0, 0.0))
    states = len(plans) * tokens * shape.width * shape.bytes
    sweeps = math.ceil(states / rates.states)
    read = sweeps * (len(left) * shape.block + shape.head) * shape.bytes
    work = 2 * tokens * (forwards * shape.block + len(plans) * shape.head)
    return {
        "round": str(gone + 1),
        "plans": len(plans),
        "GB of states": states / 1e9,
        "sweeps": sweeps,
        "GB read": read / 1e9,
        "PFLOP": work / 1e15,
        "seconds of disk": read / rates.disk,
        "seconds of compute": work / rates.flops,
        "seconds": max(read / rates.disk, work / rates.flops),
    }


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "70b",
    removed: Annotated[int, typer.Option(help="Blocks that greedy removes.", min=1)] = 16,
    windows: Annotated[int, typer.Option(help="Search windows.", min=1)] = 64,
    window_tokens: Annotated[int, typer.Option(help="Tokens of each.", min=2)] = 512,
    tflops: Annotated[float, typer.Option(help="10^12 floating-point operations in a second.", min=0)] = 100.0,
    disk: Annotated[float, typer.Option(help="GB read in a second.", min=0)] = 3.0,
    states: Annotated[float, typer.Option(help="GB of hidden states that there is room for.", min=0)] = 48.0,
) -> None:
    """Bytes read, states kept, and seconds by disk and by compute; nothing is run. Takes no time."""
    rows = reckon(
        shape_of(config_of(shape)), removed, windows * window_tokens, Rates(tflops * 1e12, disk * 1e9, states * 1e9)
    )
    title = f"Greedy {removed} of a {shape} model on {windows} windows of {window_tokens} tokens"
    report(Setting(), f"reckoning-{shape}", title, rows)


cli = main

if __name__ == "__main__":
    start(cli)
