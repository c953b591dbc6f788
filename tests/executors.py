"""Executors of this process on tiny models, and all that they measure."""

import torch
from families import tiny_model

from searcher.contracts.plan import Granularity
from searcher.evaluation.open_executor import open_executor
from searcher.replay.relative_flops import measure_prices
from searcher.replay.replay import Replay
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements
from searcher.testing import tiny_tokenizer


def executor_on(windows, objectives, model=None, tokenizer=None, **options):
    """An executor for windows of the search split, or by split; of a model, a replay, or a tiny Llama."""
    by_split = windows if isinstance(windows, dict) else {"search": windows}
    tokens = next(iter(by_split.values())).shape[1]
    with torch.inference_mode():
        known = isinstance(model, Replay)
        replay = model if known else open_replay(model or tiny_model("llama"), Granularity.SUBLAYER)
        prices = measure_prices(replay, tokens)
        return open_executor(replay, objectives, by_split, tokenizer or tiny_tokenizer(), prices, **options)


def measure_all(executor, plans, split="search", windows=None, known=None, heard=lambda line: None):
    """Everything of these plans, and the lines that came, each of which is heard of before it is taken in."""
    known = Measurements(executor.layout) if known is None else known
    lines = []
    for line in executor.measure(split, plans, known, windows):
        heard(line)
        known.add(line)
        lines.append(line)
    return known, lines
