"""Latency: both models in turn, a ratio a round; what is timed is the pruned model itself."""

import numpy as np
import pytest
import torch
from executors import executor_on, measure_all

from objectives.latency import Latency
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.evaluation.open_executor import open_executor
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements
from searcher.testing import tiny_llama, tiny_tokenizer

QUICK = {"tokens": 8, "new_tokens": 2, "rounds": 2, "repeats": 1}
IDS = torch.randint(30, (2, 12), generator=torch.Generator().manual_seed(0))


def measured(objective, *texts):
    plans = list(map(PrunePlan.parse, texts))
    known, lines = measure_all(executor_on(IDS, {"latency": objective}, tiny_llama()), plans)
    for line in lines:
        assert line.apart.layer_forwards == pytest.approx(line.layer_forwards)  # nothing is replayed
    return [known.rows("search", plan, "latency") for plan in plans]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_ratio_for_each_round_and_one_for_the_dense_model(phase):
    dense, pruned = measured(Latency(phase, tokens=8, new_tokens=2, rounds=4, repeats=2), "dense", "0,2.attn")
    np.testing.assert_array_equal(dense, np.ones(4))
    assert pruned.shape == (4,)
    assert (pruned > 0).all()


@pytest.mark.parametrize(("phase", "tokens"), [("prefill", 8), ("decode", 8 + 2)])
def test_what_goes_through_both_models_is_metered(phase, tokens):
    with torch.inference_mode():
        replay = open_replay(tiny_llama(), Granularity.BLOCK)
        objectives = {"latency": Latency(phase, tokens=8, new_tokens=2, rounds=2, repeats=3)}
        executor = open_executor(replay, objectives, {"search": IDS}, tiny_tokenizer(), measure_prices(replay, 12))
    timings = 1 + 2 * 3  # the first is not counted in the ratio
    for line in executor.measure(
        "search", [PrunePlan.parse("dense"), PrunePlan.parse("0,2")], Measurements(executor.layout)
    ):
        blocks = 4 + (4 if line.plan == PrunePlan() else 2)
        assert line.layer_forwards == pytest.approx(timings * blocks * tokens / 12)
        read_out = 1 if phase == "prefill" else 1 + 2  # of the prompt only the last token
        assert line.heads == pytest.approx(timings * 2 * read_out / 12)


def test_both_are_timed_in_turn_and_medians_compared(monkeypatch):
    timed = []

    def seconds(self, candidate):
        timed.append(str(candidate.plan))
        return {"dense": 4.0, "1": 1.0}[timed[-1]] * (100.0 if len(timed) in (3, 6) else 1.0)  # once disturbed each

    monkeypatch.setattr(Latency, "_seconds", seconds)
    (ratios,) = measured(Latency(rounds=1, repeats=3), "1")
    assert timed == ["dense", "1"] * 4  # the first pair is not counted
    np.testing.assert_array_equal(ratios, [0.25])


def test_decoding_uses_the_cache(monkeypatch):
    """One new token a step, however long the context."""
    lengths = []
    model_class = type(tiny_llama())
    forward = model_class.forward

    def noted(self, *args, **kwargs):
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(model_class, "forward", noted)
    with torch.inference_mode():
        replay = open_replay(tiny_llama(), Granularity.BLOCK)
    lengths.clear()
    from searcher.replay.pruned_model import pruned

    class Candidate:
        def model(self):
            return pruned(replay.model, replay.architecture, replay.outputs, PrunePlan.parse("1"))

    with torch.inference_mode():
        assert Latency("decode", tokens=9, new_tokens=3)._seconds(Candidate()) > 0
    assert lengths == [9, 1, 1, 1]


def test_a_run_that_depends_on_it_says_that_it_is_not_repeatable(searcher_command):
    done = searcher_command(
        "run", "--strategy", "greedy", "--budget", "1", "--objective", "loss", "--objective", "latency",
        *(text for option in QUICK for text in ("--objective-arg", f"latency:{option}={QUICK[option]}")),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Another run may end otherwise" in done.out
