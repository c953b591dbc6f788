"""The evaluator: sharing, counting, windows, own inputs, plug-ins that misbehave."""

import math
import re
from collections import deque
from typing import ClassVar

import numpy as np
import pytest
import torch
from executors import executor_on, measure_all
from families import VOCABULARY, tiny_model
from oracle import oracle_losses

from objectives.loss import Loss, Perplexity
from searcher.contracts.objective import Objective, TokenBatch
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.replay import batching
from searcher.replay.relative_flops import measure_prices
from searcher.runs.measurement import Measurement, Measurements
from searcher.testing import tiny_tokenizer

IDS = torch.randint(VOCABULARY, (5, 24), generator=torch.Generator().manual_seed(2))
PLANS = [PrunePlan.parse(text) for text in ("dense", "0", "1.attn", "0,3", "2-3")]


class Choices(Objective):
    """Log-likelihood of the last tokens of sequences of its own, of two lengths."""

    unit = "nats"
    reads = "inputs"

    def inputs(self, tokenizer, split):
        assert len(tokenizer) == 97
        generator = torch.Generator().manual_seed({"search": 1, "report": 2}[split])
        batches = []
        for rows, tokens in ((2, 12), (3, 7)):
            scored = torch.zeros((rows, tokens - 1), dtype=torch.bool)
            scored[:, -3:] = True
            batches.append(TokenBatch(torch.randint(VOCABULARY, (rows, tokens), generator=generator), scored))
        return batches

    def prepare(self, dense):
        assert str(dense.plan) == "dense"
        self.dense = getattr(self, "dense", {}) | {dense.batch: dense.losses().clone()}

    def measure(self, candidate):
        assert self.dense[candidate.batch].shape == candidate.losses().shape
        return (candidate.losses() * candidate.scored).sum(dim=1).double().numpy()


class Removed(Objective):
    """Number of blocks left; needs no forward pass."""

    unit = "blocks"
    reads = "plan"
    lower_is_better = False

    def measure(self, candidate):
        with pytest.raises(RuntimeError, match="no hidden states"):
            candidate.hidden()
        return np.array([candidate.config.num_hidden_layers - len(candidate.plan.removed)])


def opened(objectives, model=None, windows=None):
    return executor_on(windows or {"search": IDS, "report": IDS.flip(0)}, objectives, model)


def measured(executor, plans=PLANS, split="search", windows=None, known=None):
    return measure_all(executor, plans, split, windows, known)


@pytest.fixture
def small_groups(monkeypatch):
    """Two windows run together, so that five make three groups."""
    monkeypatch.setattr(batching, "GROUP_TOKENS", {"cpu": 48})


@pytest.mark.usefixtures("small_groups")
def test_values_are_the_oracles_and_objectives_share_the_head():
    executor = opened({"loss": Loss(), "perplexity": Perplexity()})
    known, lines = measured(executor)
    assert [g.rows for g in executor.layout["search"]] == [2, 2, 1]
    for plan in PLANS:
        rows = known.rows("search", plan, "loss")
        np.testing.assert_allclose(rows, oracle_losses(tiny_model("llama"), IDS, plan).numpy(), rtol=1e-5)
        assert Perplexity().value(rows) == math.exp(rows.mean())
        np.testing.assert_array_equal(rows, known.rows("search", plan, "perplexity"))
        assert known.complete("search", plan)
        assert not known.complete("report", plan)
    assert sum(line.heads for line in lines) == len(PLANS) * 5  # one head for both objectives


@pytest.mark.usefixtures("small_groups")
def test_what_was_run_is_counted_with_shared_prefixes_once():
    executor = opened({"loss": Loss()})
    _, lines = measured(executor)
    weight = measure_prices(executor._evaluators[0].replay, 24).weight
    # as a trie: dense 4; 0: +3; 1.attn shares block 0: +weight+2; 0,3 shares all of 0's blocks 1 and 2: +0; 2-3: +0
    per_window = 4 + 3 + weight[1] + 2
    assert sum(line.layer_forwards for line in lines) == pytest.approx(5 * per_window)


def test_nothing_known_is_measured_again():
    executor = opened({"loss": Loss()})
    known, _ = measured(executor, PLANS[:3])
    _, more = measured(executor, PLANS, known=known)
    assert {line.plan for line in more} == set(PLANS[3:])
    assert measured(executor, PLANS, known=known)[1] == []


@pytest.mark.usefixtures("small_groups")
def test_some_windows_then_the_rest_equal_all_at_once_bit_for_bit():
    executor = opened({"loss": Loss()})
    known, first = measured(executor, windows=[0, 3])
    assert {(line.group, line.rows) for line in first} == {("windows:0", (0,)), ("windows:1", (1,))}
    assert known.covers("search", PLANS[1], [0, 3])
    assert not known.covers("search", PLANS[1], [0, 1])
    measured(executor, known=known)
    whole, _ = measured(opened({"loss": Loss()}))
    for plan in PLANS:
        np.testing.assert_array_equal(known.rows("search", plan, "loss"), whole.rows("search", plan, "loss"))


def test_objectives_with_inputs_of_their_own_and_with_none():
    executor = opened({"loss": Loss(), "choices": Choices(), "left": Removed()})
    known, lines = measured(executor)
    names = [(g.name, g.rows, g.objectives) for g in executor.layout["search"]]
    assert names == [
        ("windows:0", 5, ("loss",)),
        ("choices:0", 2, ("choices",)),
        ("choices:1", 3, ("choices",)),
        ("plan", 1, ("left",)),
    ]
    assert known.rows("search", PrunePlan.parse("0,3"), "left").tolist() == [2.0]
    model = tiny_model("llama")
    for split in ("search", "report"):
        measured(executor, split=split, known=known)
        for plan in PLANS:
            expected = []
            for batch in Choices().inputs(tiny_tokenizer(), split):
                with torch.inference_mode():
                    from oracle import pruned_copy

                    logits = pruned_copy(model, plan)(input_ids=batch.ids, use_cache=False).logits
                losses = torch.nn.functional.cross_entropy(
                    logits[:, :-1].transpose(1, 2), batch.ids[:, 1:], reduction="none"
                )
                expected += losses[:, -3:].sum(dim=1).tolist()
            np.testing.assert_allclose(known.rows(split, plan, "choices"), expected, rtol=1e-5)
    # the own inputs are metered by their tokens, in windows of 24
    own = sum(line.heads for line in lines if line.group.startswith("choices"))
    assert own == pytest.approx(len(PLANS) * (2 * 12 * 3 / 11 + 3 * 7 * 3 / 6) / 24)  # the head of scored tokens alone


def test_windows_that_no_objective_reads_are_not_run():
    executor = opened({"choices": Choices(), "left": Removed()})
    assert [g.name for g in executor.layout["search"]] == ["choices:0", "choices:1", "plan"]
    known, lines = measured(executor)
    assert known.complete("search", PLANS[1])
    per_token = sum(line.layer_forwards for line in lines if line.plan == PLANS[0]) / (2 * 12 + 3 * 7) * 24
    assert per_token <= 4 + 1e-9
    only_plans, lines = measured(opened({"left": Removed()}))
    assert only_plans.complete("search", PLANS[1])
    assert sum(line.layer_forwards + line.heads for line in lines) == 0


def test_a_plan_that_breaks_the_model_is_a_result():
    model = tiny_model("llama")
    executor = opened({"loss": Loss()}, model)
    model.model.layers[3].mlp.down_proj.weight.fill_(float("nan"))
    known, lines = measured(executor)
    assert np.isnan(known.rows("search", PLANS[0], "loss")).all()
    assert np.isfinite(known.rows("search", PrunePlan.parse("2-3"), "loss")).all()
    assert known.complete("search", PLANS[0])
    for line in lines:
        again = Measurement.from_json(line.to_json())
        np.testing.assert_array_equal(again.values["loss"], line.values["loss"])
        assert (again.plan, again.rows, again.group) == (line.plan, line.rows, line.group)


class Broken(Loss):
    """Fails on one plan."""

    def __init__(self, way):
        self.way = way

    def measure(self, candidate):
        if str(candidate.plan) != "0,3":
            return super().measure(candidate)
        return {"raise": lambda: 1 // 0, "text": lambda: "many", "shape": lambda: np.zeros(2)}[self.way]()


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("raise", "failed on plan 0,3: ZeroDivisionError"),
        ("text", "failed on plan 0,3: ValueError"),
        ("shape", "returned shape (2,) for plan 0,3"),
    ],
)
def test_an_objective_that_misbehaves_is_named_with_the_plan(way, message):
    executor = opened({"mine": Broken(way)})
    known = Measurements(executor.layout)
    lines = executor.measure("search", PLANS, known)
    with pytest.raises(UsageError, match=re.escape(f"Objective 'mine' {message}")):
        deque(map(known.add, lines), maxlen=0)
    assert known.plans("search")  # what came before is there


@pytest.mark.usefixtures("small_groups")
def test_an_objective_that_prepares_sees_the_dense_model_once_on_every_group():
    class Watching(Loss):
        seen: ClassVar[list] = []

        def prepare(self, dense):
            self.seen.append((dense.batch, str(dense.plan), dense.rows))

    executor = opened({"mine": Watching()})
    known, _ = measured(executor, windows=[1])
    assert Watching.seen == [("search/windows:0", "dense", (0, 1))]  # all rows, whatever was asked for
    measured(executor, known=known)
    measured(executor, split="report")
    assert [batch for batch, _, _ in Watching.seen] == [
        f"{split}/windows:{i}" for split in ("search", "report") for i in range(3)
    ]


def test_an_objective_without_inputs_is_refused():
    class Empty(Choices):
        def inputs(self, tokenizer, split):
            return []

    with pytest.raises(UsageError, match="'mine' brings no inputs for the search split"):
        opened({"mine": Empty()})


def test_inference_mode_does_not_leak_out():
    executor = opened({"loss": Loss()})
    for _ in executor.measure("search", PLANS, Measurements(executor.layout)):
        assert not torch.is_inference_mode_enabled()
