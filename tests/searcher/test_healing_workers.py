"""Ray workers heal plans as one process does."""

import contextlib
from pathlib import Path

import healings
import pytest
import torch
from families import VOCABULARY, tiny_model

from objectives.loss import Perplexity
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.evaluation import ray_session
from searcher.evaluation.open_executor import open_executor
from searcher.evaluation.ray_executor import RayExecutor
from searcher.evaluation.ray_worker import Objectives
from searcher.healing.healer import begin_treatment
from searcher.loading.heal_text import HealText
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements
from searcher.testing import tiny_tokenizer

pytest.importorskip("ray")

HEALINGS = Path(healings.__file__)
WINDOWS = torch.randint(VOCABULARY, (8, 32), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def ray():
    """Started once: an executor of workers uses what it finds, and leaves it running."""
    leave = ray_session.start(cpus=2, gpus=0, weights=0)
    yield
    leave()


@pytest.mark.slow  # starts workers
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("scope", ["plan", "unit", "gap", "rescale"])
def test_two_workers_give_the_same_bits(scope):
    """Each worker heals for itself; matrices and adapters fitted there are those fitted here."""
    recipe = {
        "plan": "lora:steps=4,lr=0.01,batch=2,rank=2",
        "unit": f"{HEALINGS}:Shifted",
        "gap": f"{HEALINGS}:Turned",
        "rescale": "rescale:choose=ratio",
    }[scope]
    split = "healed-search" if scope == "plan" else "search"
    plans = [PrunePlan.parse(text) for text in ("1", "2,3", "0.attn", "1.ffn,3", "dense", "3")]
    generator = torch.Generator().manual_seed(4)
    fit, held_out = (torch.randint(VOCABULARY, (rows, 32), generator=generator) for rows in (6, 3))

    def healing_executor():
        model = tiny_model("llama").to(torch.bfloat16)
        with torch.inference_mode():
            replay = open_replay(model, Granularity.SUBLAYER)
            prices, text = measure_prices(replay, 32), HealText(recipe, fit, held_out)
            begin_treatment(text, replay, prices, Granularity.SUBLAYER)
            windows = {"search": WINDOWS, "healed-search": WINDOWS, "healed-search-1/2": WINDOWS}
            return open_executor(
                replay, {"perplexity": Perplexity()}, windows, tiny_tokenizer(), prices, cores=1, healing=text
            )

    def values(executor, split=split):
        known = Measurements(executor.layout)
        for line in executor.measure(split, plans, known):
            known.add(line)
        return {plan: known.rows(split, plan, "perplexity").tolist() for plan in plans}

    executor = RayExecutor(healing_executor(), Objectives({"perplexity": ("perplexity", {})}), 2, None, 2 << 30)
    with contextlib.closing(executor):
        found = values(executor)
        assert len(executor.workers) == 2
        if scope == "plan":  # in a round of half of the steps, too
            shorter = values(executor, "healed-search-1/2")
            assert shorter == values(healing_executor(), "healed-search-1/2")
            assert shorter != found
    assert found == values(healing_executor())
    assert len({tuple(numbers) for numbers in found.values()}) == len(plans)
