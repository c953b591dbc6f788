"""How the cost of a search grows with blocks, windows and plans; the exponent is the slope in log-log.

    python -m benchmarks.scaling

The models are random Llamas of the embedded model's width, since only the time counts.
"""

import time
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import Opened, measure, report
from searcher.measurement import Measurements
from searcher.model import LoadedModel, load_model
from searcher.plan import Granularity, PrunePlan, all_units
from searcher.prices import measure_prices
from searcher.selfcheck import open_replay

TOKENS = 64


def opened(like: LoadedModel, blocks: int, windows: int) -> Opened:
    """A random model with this many blocks."""
    config = LlamaConfig(**like.model.config.to_dict() | {"num_hidden_layers": blocks})
    model = LlamaForCausalLM(config).to(like.dtype).eval().requires_grad_(False)
    ids = torch.randint(config.vocab_size, (windows, TOKENS), generator=torch.Generator().manual_seed(0))
    loaded = LoadedModel(model, like.tokenizer, "random", "", like.device, like.dtype)
    with torch.inference_mode():
        replay = open_replay(model, Granularity.BLOCK)
        return Opened(loaded, replay, measure_prices(replay, TOKENS), ids)


def seconds_of(model: Opened, plans: Sequence[PrunePlan]) -> float:
    """Of a batch of plans, by a crew that has been warmed up."""
    crew = model.crew()
    known = Measurements(crew.layout)
    measure(crew, [PrunePlan()], known)
    started = time.perf_counter()
    measure(crew, plans, known)
    return time.perf_counter() - started


def pairs(blocks: int, count: int | None = None) -> list[PrunePlan]:
    """All pairs of blocks, or so many of them evenly spread."""
    every = [PrunePlan.of(pair) for pair in combinations(all_units(blocks, Granularity.BLOCK), 2)]
    return every if count is None else every[:: max(1, len(every) // count)][:count]


def singles(blocks: int) -> list[PrunePlan]:
    """Every block left out."""
    return [PrunePlan.of([unit]) for unit in all_units(blocks, Granularity.BLOCK)]


def main() -> None:
    """Print the table and write it."""
    like = load_model(None, dtype="auto")
    series: dict[str, list[tuple[int, float]]] = {
        "blocks, leave one out (n plans of n blocks)": [
            (n, seconds_of(opened(like, n, 8), singles(n))) for n in (12, 24, 48)
        ],
        "blocks, 32 pairs": [(n, seconds_of(opened(like, n, 8), pairs(n, 32))) for n in (12, 24, 48)],
    }
    model = opened(like, 12, 32)
    series["windows"] = []
    for windows in (8, 16, 32):
        part = Opened(model.loaded, model.replay, model.prices, model.ids[:windows])
        series["windows"].append((windows, seconds_of(part, singles(12))))
    few = Opened(model.loaded, model.replay, model.prices, model.ids[:8])
    series["plans (pairs of 12 blocks)"] = [(n, seconds_of(few, pairs(12, n))) for n in (8, 16, 32, 66)]
    rows: list[dict[str, Any]] = []
    for name, points in series.items():
        slope = float(np.polyfit(*np.log(np.array(points)).T, 1)[0])
        rows += [{"series": name, "n": n, "seconds": seconds, "exponent": slope} for n, seconds in points]
    report("scaling", f"Seconds against size, {str(like.dtype).removeprefix('torch.')}, {TOKENS} tokens a window", rows)


if __name__ == "__main__":
    typer.run(main)
