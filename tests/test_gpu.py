"""What can only be seen on a GPU; run with `pytest -m gpu` where there is one."""

import numpy as np
import pytest
import torch
from families import VOCABULARY, tiny_model
from oracle import oracle_losses

from objectives.loss import Loss
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.evaluation.open_executor import open_executor
from searcher.loading.model import load_model
from searcher.replay.head import FusedHead
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements
from searcher.testing import tiny_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
IDS = torch.randint(VOCABULARY, (6, 32), generator=torch.Generator().manual_seed(2))
PLANS = [PrunePlan.parse(text) for text in ("dense", "0", "1.attn", "0,3", "2-3", "1.ffn,3")]


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe"])
def test_losses_on_a_gpu_are_the_oracles(family):
    with torch.inference_mode():
        replay = open_replay(tiny_model(family).to("cuda"), Granularity.SUBLAYER)
        replay.head.choose_way(replay.embed(IDS[:1].to("cuda")))
        prices = measure_prices(replay, IDS.shape[1])
        executor = open_executor(replay, {"loss": Loss()}, {"search": IDS}, tiny_tokenizer(), prices)
    assert not executor.exact
    known = Measurements(executor.layout)
    for line in executor.measure("search", PLANS, known):
        known.add(line)
    for plan in PLANS:
        expected = oracle_losses(tiny_model(family), IDS, plan).numpy()
        np.testing.assert_allclose(known.rows("search", plan, "loss"), expected, rtol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees no two CUDA devices")
def test_a_model_spread_over_several_gpus(tmp_path, monkeypatch):
    model = tiny_model("llama", num_blocks=6)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    free = int(sum(parameter.nbytes for parameter in model.parameters()) * 0.9)  # too little for all of it
    monkeypatch.setattr("searcher.loading.spread.bytes_free", lambda device: free)
    loaded = load_model(str(tmp_path), dtype="float32", device="cuda")
    with torch.inference_mode():
        replay = open_replay(loaded.model, Granularity.SUBLAYER)
        prices = measure_prices(replay, IDS.shape[1])
        executor = open_executor(replay, {"loss": Loss()}, {"search": IDS}, tiny_tokenizer(), prices)
    assert len(replay.devices) > 1
    known = Measurements(executor.layout)
    for line in executor.measure("search", PLANS, known):
        known.add(line)
    for plan in PLANS:
        expected = oracle_losses(tiny_model("llama", num_blocks=6), IDS, plan).numpy()
        np.testing.assert_allclose(known.rows("search", plan, "loss"), expected, rtol=1e-3)


def test_the_limit_on_gpu_memory_holds():
    limit = torch.cuda.memory_allocated() + (400 << 20)
    with torch.inference_mode():
        replay = open_replay(tiny_model("llama").to("cuda"), Granularity.BLOCK)
        prices = measure_prices(replay, IDS.shape[1])
        executor = open_executor(replay, {"loss": Loss()}, {"search": IDS}, tiny_tokenizer(), prices, limit)
    torch.cuda.reset_peak_memory_stats()
    known = Measurements(executor.layout)
    for line in executor.measure("search", PLANS, known):
        known.add(line)
    assert torch.cuda.max_memory_allocated() <= limit
    assert isinstance(replay.head, FusedHead)
