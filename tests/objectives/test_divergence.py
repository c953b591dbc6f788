"""`kl` and `js` in runs: their values, what they cost, and whom they share it with."""

import json
from math import log

import numpy as np
import pytest
import torch
from families import VOCABULARY, tiny_model

from objectives.divergence import JS, KL
from objectives.hybrid import Hybrid
from objectives.loss import Loss, Perplexity
from searcher.contracts.objective import Objective
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.evaluation.open_executor import open_executor
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements
from searcher.testing import tiny_tokenizer

WINDOWS = torch.randint(VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(9))
PLANS = [PrunePlan.parse(plan) for plan in ("dense", "1", "0,2")]


class FullLogits(Objective):
    """KL divergence by full logits, all of them kept."""

    unit = "nats"

    def __init__(self):
        self.dense = {}

    def prepare(self, dense):
        self.dense[dense.batch] = list(dense.logits())

    def measure(self, candidate):
        pairs = zip(self.dense[candidate.batch], candidate.logits(), strict=True)
        logs = [[z[:-1].double().log_softmax(-1) for z in pair] for pair in pairs]
        return np.array([(p.exp() * (p - q)).sum(-1).mean().item() for p, q in logs])


def measure(objectives, family="llama", rows=None):
    with torch.inference_mode():
        replay = open_replay(tiny_model(family), Granularity.BLOCK)
        prices = measure_prices(replay, WINDOWS.shape[1])
        executor = open_executor(replay, objectives, {"search": WINDOWS}, tiny_tokenizer(), prices)
    known = Measurements(executor.layout)
    heads = {}
    for line in executor.measure("search", PLANS, known, rows):
        known.add(line)
        heads[line.plan] = line.heads
    return known, heads


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_kl_is_that_of_full_logits_and_js_is_bounded(family):
    known, _ = measure({"kl": KL(), "js": JS(), "full": FullLogits()}, family)
    for plan in PLANS:
        kl, js, full = (known.rows("search", plan, name) for name in ("kl", "js", "full"))
        np.testing.assert_allclose(kl, full, atol=1e-5, rtol=1e-5)
        assert (js <= log(2)).all()
        if plan.removed:
            assert (kl > 0.01).all()
            assert (js > 0.001).all()
        else:
            assert not kl.any()
            assert not js.any()


def test_kl_on_some_windows_is_kl_of_those_windows():
    known, _ = measure({"kl": KL()})
    part, _ = measure({"kl": KL()}, rows=[2])
    for plan in PLANS:
        whole, rows = known.rows("search", plan, "kl"), part.rows("search", plan, "kl")
        assert np.isnan(rows[:2]).all()
        assert rows[2] == pytest.approx(whole[2], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("family", "objectives", "heads"),
    [
        ("llama", {"perplexity": Perplexity}, 1),
        ("llama", {"kl": KL}, 1),
        ("llama", {"perplexity": Perplexity, "loss": Loss, "kl": KL}, 1),
        ("llama", {"kl": KL, "perplexity": Perplexity}, 1),
        ("gemma2", {"perplexity": Perplexity, "kl": KL}, 3),
        ("llama", {"perplexity": Perplexity, "js": JS}, 3),
    ],
)
def test_heads_are_metered_and_shared(family, objectives, heads):
    _, found = measure({name: objective() for name, objective in objectives.items()}, family)
    assert found == {plan: heads * len(WINDOWS) for plan in PLANS}


def test_searching_for_the_least_divergence(searcher_command):
    done = searcher_command(
        "run", "--format", "json", "--strategy", "greedy", "--budget", "2", "--objective", "kl", "--objective", "js"
    )
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["dense"]["search"] == {"kl": 0, "js": 0}
    best = document["best"]["search"]
    assert 0 < best["js"] < best["kl"]


def test_hybrid_is_loss_and_kl_together_at_no_further_head():
    known, heads = measure({"loss": Loss(), "kl": KL(), "hybrid": Hybrid(), "even": Hybrid(kl=1.0)})
    _, alone = measure({"hybrid": Hybrid()})
    for plan in PLANS:
        loss, kl, hybrid, even = (known.rows("search", plan, name) for name in ("loss", "kl", "hybrid", "even"))
        np.testing.assert_allclose(hybrid, (loss + 2 * kl) / 3, atol=1e-12)
        np.testing.assert_allclose(even, (loss + kl) / 2, atol=1e-12)
        assert heads[plan] == alone[plan] == len(WINDOWS)
