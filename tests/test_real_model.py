"""What the README promises of the real model. Takes minutes: run by `make test-slow`."""

import json
import statistics
import subprocess
import sys
import time

import pytest
import torch
from oracle import oracle_losses

from searcher.model import load_model
from searcher.plan import Granularity, PrunePlan
from searcher.selfcheck import open_replay
from searcher.text import load_text
from searcher.windows import cut_windows

pytestmark = pytest.mark.slow


def searcher_json(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "searcher", *arguments, "--format", "json"],
        cwd=folder, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


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
