"""Tiny models trained for seconds, so that their blocks depend on each other as those of real ones do."""

from functools import cache

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from searcher.crew import open_crew
from searcher.games import make_space
from searcher.measurement import Measurements
from searcher.plan import Granularity, PrunePlan, all_units
from searcher.prices import measure_prices
from searcher.selfcheck import open_replay
from searcher.space import Space
from searcher.testing import tiny_tokenizer
from strategies.portfolio import Portfolio

STEPS, ROWS, TOKENS, VOCABULARY = 150, 16, 32, 64


def train(num_blocks: int, seed: int, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A float32 Llama that has learnt some of a language made of three interleaved chains.

    Trained in `dtype`: in float32 the rounding of each processor grows to a model of its own, in float64 it does not.
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
    model = LlamaForCausalLM(config).to(dtype)
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


class Enumerated:
    """A game whose scores are those of every plan of a trained model: call it with a plan.

    Args:
        granularity: what its units are.
        num_units: how many there are.
        size: of the plans enumerated; smaller ones are measured when they are asked for.
        seed: of the model and its text.
        dtype: in which the model is trained.
    """

    def __init__(
        self, granularity: Granularity, num_units: int, size: int, seed: int, dtype: torch.dtype = torch.float32
    ) -> None:
        from objectives.loss import Loss

        num_blocks = num_units if granularity is Granularity.BLOCK else num_units // 2
        statistics = Portfolio().statistics  # made up: the warm starts of a portfolio, no better than chance here
        self.space: Space = make_space(num_blocks, size, granularity=granularity, seed=seed, statistics=statistics)
        assert len(all_units(num_blocks, granularity)) == num_units
        model = train(num_blocks, seed, dtype)
        with torch.inference_mode():
            replay = open_replay(model, granularity)
            prices = measure_prices(replay, TOKENS)
            windows = sentences(self.space.num_windows, seed=7)
            self._crew = open_crew(replay, {"loss": Loss()}, {"search": windows}, tiny_tokenizer(), prices)
        self._known = Measurements(self._crew.layout)
        self._measure(list(self.space.plans(size)))

    def _measure(self, plans: list[PrunePlan]) -> None:
        for line in self._crew.measure("search", plans, self._known):
            self._known.add(line)

    def __call__(self, plan: PrunePlan):
        """float64 (windows,): its losses."""
        if not self._known.complete("search", plan):
            self._measure([plan])
        return self._known.rows("search", plan, "loss")


enumerated = cache(Enumerated)
