"""Trains the tiny models of `trained.py` and writes the losses of all their plans: `python tests/make_trained.py`.

It takes some ten minutes. On another processor a loss that lies between two multiples may be rounded to the other.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from trained import FILE, MODELS, WINDOWS, name_of, packed, row_of

from objectives.loss import Loss
from searcher.contracts.games import make_space
from searcher.contracts.plan import Granularity
from searcher.evaluation.open_executor import open_executor
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements
from searcher.testing import tiny_tokenizer

STEPS, ROWS, TOKENS, VOCABULARY = 150, 16, 32, 64


def train(num_blocks: int, seed: int) -> LlamaForCausalLM:
    """A Llama that has learnt some of a language made of three interleaved chains.

    Trained in float64: in float32 the rounding of each processor would grow to a model of its own.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=num_blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        ids = sentences(ROWS, seed=1000 * seed + step)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.float().eval().requires_grad_(False)


def sentences(rows: int, seed: int) -> torch.Tensor:
    """int64 (rows, TOKENS): each token follows from the one three before it, by a fixed table, or by chance."""
    table = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (rows, TOKENS), generator=generator)
    follows = torch.rand((rows, TOKENS), generator=generator) < 0.8
    for t in range(3, TOKENS):
        ids[:, t] = torch.where(follows[:, t], table[ids[:, t - 3]], ids[:, t])
    return ids


def losses(granularity: Granularity, num_units: int, seed: int) -> NDArray[np.float64]:
    """(2 ** units, windows): of every plan of a model, in the row that `row_of` gives it."""
    num_blocks = num_units if granularity is Granularity.BLOCK else num_units // 2
    space, model = make_space(num_blocks, 1, granularity=granularity), train(num_blocks, seed)
    with torch.inference_mode():
        replay = open_replay(model, granularity)
        prices = measure_prices(replay, TOKENS)
        windows = sentences(max(WINDOWS.values()), seed=7)[: WINDOWS[num_units]]
        executor = open_executor(replay, {"loss": Loss()}, {"search": windows}, tiny_tokenizer(), prices)
    table = np.empty((2**num_units, WINDOWS[num_units]))
    for size in range(num_units + 1):
        plans, known = list(space.plans(size)), Measurements(executor.layout)
        for line in executor.measure("search", plans, known):
            known.add(line)
        table[[row_of(plan, space) for plan in plans]] = [known.rows("search", plan, "loss") for plan in plans]
    return table


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.savez_compressed(FILE, **{name_of(*model): packed(losses(*model)) for model in MODELS})
