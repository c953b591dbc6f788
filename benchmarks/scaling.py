"""How the cost of a search grows with blocks, windows and plans."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from statistics import linear_regression
from typing import Any

import numpy as np
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import Opened, measure, open_model, opened, report
from benchmarks.evaluator import spread
from benchmarks.setting import Setting, command, start
from benchmarks.steps import Steps
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.loading.model import LoadedModel
from searcher.runs.measurement import Measurements

DEFAULTS = Setting(window_tokens=64)
WIDTHS = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
"""What a random model has of the given one."""
BLOCKS = 12
"""Of the smallest model; of a quick one a quarter of that."""


def random_llama(like: LoadedModel, blocks: int, ids: Tensor) -> Opened:
    """A random model with this many blocks."""
    given = like.model.config.get_text_config(decoder=True)
    widths = {name: getattr(given, name) for name in WIDTHS if getattr(given, name, None)}
    config = LlamaConfig(**widths, num_hidden_layers=blocks, tie_word_embeddings=True)
    model = LlamaForCausalLM(config).to(like.device, like.dtype).eval().requires_grad_(False)
    loaded = LoadedModel(model, like.tokenizer, "random", "", like.device, like.dtype)
    return opened(loaded, ids, Granularity.BLOCK)


def seconds_of(model: Opened, plans: Sequence[PrunePlan], windows: int) -> float:
    """Of a batch of plans on the first windows, by an executor that has been warmed up."""
    executor = replace(model, ids=model.ids[:windows]).executor()
    known = Measurements(executor.layout)
    measure(executor, [PrunePlan()], known)
    started = time.perf_counter()
    measure(executor, plans, known)
    return time.perf_counter() - started


def pairs(blocks: int) -> list[PrunePlan]:
    """All pairs of blocks."""
    return [PrunePlan.of(pair) for pair in combinations(all_units(blocks, Granularity.BLOCK), 2)]


def singles(blocks: int) -> list[PrunePlan]:
    """Every block left out."""
    return [PrunePlan.of([unit]) for unit in all_units(blocks, Granularity.BLOCK)]


def series(like: Opened, few: int, smallest: int) -> dict[str, dict[int, Callable[[], float]]]:
    """By what is varied and how much of it there is: what gives the seconds.

    Args:
        like: with four times the fewest windows.
        few: the fewest windows.
        smallest: blocks of the smallest model.
    """
    every, same = pairs(smallest), random_llama(like.loaded, smallest, like.ids)

    def on(blocks: int, plans: Sequence[PrunePlan]) -> Callable[[], float]:
        return lambda: seconds_of(random_llama(like.loaded, blocks, like.ids), plans, few)

    blocks = [smallest, 2 * smallest, 4 * smallest]
    counts = [len(every) // part for part in (8, 4, 2, 1) if part <= len(every)]
    return {
        "blocks, leave one out (n plans of n blocks)": {n: on(n, singles(n)) for n in blocks},
        "blocks, 32 pairs": {n: on(n, spread(pairs(n), 32)) for n in blocks},
        "windows": {n: partial(seconds_of, same, singles(smallest), n) for n in (few, 2 * few, 4 * few)},
        f"plans (pairs of {smallest} blocks)": {n: partial(seconds_of, same, spread(every, n), few) for n in counts},
    }


def main(setting: Setting) -> None:
    """How the seconds of a search grow with blocks, windows and plans; the exponent is the slope in log-log.

    The models are random Llamas as wide as the given model, since only the time counts.

    Takes a minute on 2 cores with AMX.
    """
    rows: list[dict[str, Any]] = []
    with Steps("scaling") as steps:
        like = open_model(replace(setting, windows=4 * setting.windows))
        asked = series(like, setting.windows, BLOCKS // 4 if setting.quick else BLOCKS)
        steps.expect(sum(sum(points) for points in asked.values()))
        for name, points in asked.items():
            steps.at(name)
            seconds = {}
            for n, measured in points.items():
                seconds[n] = measured()
                steps.done(n)
            slope, _ = linear_regression(np.log([*seconds]).tolist(), np.log([*seconds.values()]).tolist())
            rows += [{"series": name, "n": n, "seconds": took, "exponent": slope} for n, took in seconds.items()]
    tokens = setting.window_tokens
    title = f"Seconds against size: random Llamas like {like.loaded.name}, {like.dtype}, windows of {tokens} tokens"
    report(setting, f"scaling-{like.kind}", title, rows)


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)
