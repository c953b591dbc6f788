"""What the README promises of the real model. Most of it takes minutes: run by `make test-slow`."""

import json
import math
import statistics
import subprocess
import sys
import time
from itertools import combinations

import pytest
import torch
from oracle import oracle_losses

from searcher.contracts.plan import Granularity, PrunePlan, Unit
from searcher.loading.model import load_model
from searcher.loading.text import load_text
from searcher.loading.windows import cut_windows
from searcher.replay.self_check import open_replay


def searcher_json(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "searcher", *arguments, "--format", "json"],
        cwd=folder, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_a_search_on_the_real_model_ends_with_the_best_of_all_pairs(searcher_command):
    """Of four blocks in the middle, all pairs of which are measured, by the oracle as well."""
    windows = {"tokens": 32, "count": 2}
    options = ["--keep", "0-12,17-29", "--windows", 2, "--window-tokens", 32, "--report-windows", 32]
    done = searcher_command(
        "run", "--strategy", "exhaustive", "--budget", 2, *options, "--dtype", "float32", "--format", "json",
        defaults=False,
    )  # fmt: skip
    assert done.code == 0, done.err
    run = json.loads(done.out)
    loaded = load_model(None, dtype="float32", device="cpu")
    ids = cut_windows(load_text(None).search, loaded.tokenizer, **windows, split="search", seed=0).ids
    pairs = [PrunePlan.of(map(Unit, pair)) for pair in combinations(range(13, 17), 2)]
    losses = {plan: float(oracle_losses(loaded.model, ids, plan).mean()) for plan in (*pairs, PrunePlan())}
    best = min(pairs, key=losses.get)
    assert run["best"]["plan"] == str(best)
    for entry, plan in ((run["best"], best), (run["dense"], PrunePlan())):
        assert math.log(entry["search"]["perplexity"]) == pytest.approx(losses[plan], rel=1e-5)
    assert run["dense"]["report"]["perplexity"]["value"] < run["best"]["report"]["perplexity"]["value"]


@pytest.mark.slow
def test_shapley_beats_half_the_median_of_random_plans_within_six_minutes(tmp_path):
    started = time.monotonic()
    run = searcher_json(tmp_path, "run", "--strategy", "shapley", "--budget", "8")
    assert time.monotonic() - started < 360
    assert run["best"]["size"] == 8
    random = searcher_json(
        tmp_path, "run", "--strategy", "random", "--budget", "8", "--strategy-arg", "samples=5", "--name", "random"
    )
    lines = map(json.loads, (tmp_path / "runs/random/evaluations.jsonl").read_text().splitlines())
    plans = sorted({line["plan"] for line in lines if line["split"] == "search"} - {"dense"})
    assert len(plans) == 5
    flags = [text for plan in plans for text in ("--plan", plan)]
    evaluations = searcher_json(tmp_path, "evaluate", *flags)["evaluations"]
    median = statistics.median(e["values"]["perplexity"] for e in evaluations)
    assert run["best"]["report"]["perplexity"]["value"] < median / 2
    assert random["dense"]["report"] == run["dense"]["report"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_replay_of_the_real_model(dtype):
    loaded = load_model(None, dtype=dtype, device="cpu")
    ids = cut_windows(load_text(None).search, loaded.tokenizer, tokens=64, count=4, split="search", seed=0).ids
    plans = [PrunePlan.parse(text) for text in ("dense", "0", "29", "4-5,12-14", "3.attn,9.ffn,20", "1-28")]
    with torch.inference_mode():
        replay = open_replay(loaded.model, Granularity.SUBLAYER)
        together = {i: replay.head.losses(hidden, ids).mean(dim=1) for i, hidden in replay.states(ids, plans)}
        for i, plan in enumerate(plans):
            ((_, hidden),) = replay.states(ids, [plan])
            assert torch.equal(replay.head.losses(hidden, ids).mean(dim=1), together[i])
    for i, plan in enumerate(plans):
        tolerance = 1e-5 if dtype == "float32" else 1e-2
        torch.testing.assert_close(together[i], oracle_losses(loaded.model, ids, plan), rtol=tolerance, atol=0)
