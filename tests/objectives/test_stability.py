"""Stability: the formula of LLM-Streamline, and items whose mean it is."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from choices import make_items, merging_tokenizer, write_items
from families import tiny_model
from hypothesis import given
from hypothesis import strategies as st

from objectives.stability import Stability
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.evaluation.open_executor import open_executor
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements


def candidate(perplexities, answers):
    """What the objective sees of a model with these choice perplexities: one scored token a choice, then padding."""
    losses = torch.tensor([[np.log(p), 3.0] for item in perplexities for p in item], dtype=torch.float64)
    extra = {"choices": torch.tensor([len(item) for item in perplexities]), "answer": torch.tensor(answers)}
    scored = torch.tensor([[True, False]]).repeat(len(losses), 1)
    return SimpleNamespace(batch="b", losses=lambda: losses.float(), scored=scored, extra=extra)


def value(objective, rows):
    return objective.value(np.asarray(rows))


def pair(deviation):
    """Two perplexities of this sample standard deviation, the first lower."""
    return [1.0, 1.0 + deviation * np.sqrt(2)]


def test_the_weights_of_the_items_that_agree_count():
    # weights .7, .2, .1; only the last verdict is as it was. Summing the first weight instead would give .7
    dense = [pair(np.log(weight * 100)) for weight in (0.7, 0.2, 0.1)]
    objective = Stability("unread")
    objective.prepare(candidate(dense, [0, 0, 0]))
    rows = objective.measure(candidate([dense[0][::-1], dense[1][::-1], dense[2]], [0, 0, 0]))
    assert value(objective, rows) == pytest.approx(0.1, rel=1e-5)
    assert value(objective, objective.measure(candidate(dense, [0, 0, 0]))) == 1.0


def test_the_scale_of_the_weights():
    dense = candidate([[np.exp(1.0), np.exp(3.0)], [np.exp(2.0), np.exp(2.0)]], [0, 0])
    for scale, deviation in (("perplexity", (np.exp(3) - np.exp(1)) / np.sqrt(2)), ("loss", 2 / np.sqrt(2))):
        objective = Stability("unread", scale=scale)
        objective.prepare(dense)
        np.testing.assert_allclose(objective.measure(dense), [1 + deviation, 1], rtol=1e-5)


def test_wrong_before_and_after_is_unchanged():
    dense = [pair(1.0), [2.0, 3.0, 4.0], pair(1.0)]
    objective = Stability("unread")
    objective.prepare(candidate(dense, [1, 0, 0]))
    # still wrong; wrong instead of right; still right
    rows = objective.measure(candidate([pair(5.0), [4.0, 3.0, 2.0], pair(0.1)], [1, 0, 0]))
    assert np.sign(rows).tolist() == [1, -1, 1]
    # another wrong choice is still wrong
    objective.prepare(candidate([[2.0, 3.0, 4.0]], [2]))
    assert objective.measure(candidate([[3.0, 2.0, 4.0]], [2])) > 0


deviations = st.lists(st.tuples(st.floats(0, 700), st.booleans()), min_size=2, max_size=30)


@given(deviations)
def test_items_average_to_the_formula_and_spread_as_a_ratio(items):
    deviation, unchanged = np.array([d for d, _ in items]), np.array([float(u) for _, u in items])
    rows = np.where(unchanged > 0, 1, -1) * (1 + deviation)
    weights = np.exp(deviation - deviation.max())
    expected = (weights * unchanged).sum() / weights.sum()
    numbers = Stability("unread").items(rows)
    assert numbers.mean() == pytest.approx(expected, abs=1e-9)
    residuals = weights * (unchanged - expected) / weights.mean()
    assert numbers.var() == pytest.approx((residuals**2).mean(), abs=1e-9)


def test_no_perplexity_is_too_large():
    objective = Stability("unread")
    dense = candidate([pair(1.0), [1.0, np.inf], [np.exp(500), 1.0]], [0, 0, 1])
    objective.prepare(dense)
    with np.errstate(all="raise"):
        rows = objective.measure(dense)
        assert np.isfinite(rows).all()
        assert value(objective, rows) == 1.0
    broken = objective.measure(candidate([pair(1.0), [np.nan, 1.0], pair(1.0)], [0, 0, 1]))
    assert np.isnan(broken).tolist() == [False, True, False]
    assert np.isnan(value(objective, broken))


def test_on_a_model(tmp_path):
    file = str(write_items(tmp_path / "items.jsonl", make_items(80)))
    windows = torch.randint(97, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        replay = open_replay(tiny_model("llama"), Granularity.BLOCK)
        prices = measure_prices(replay, 24)
        objective = Stability(file)
        executor = open_executor(replay, {"it": objective}, {"search": windows}, merging_tokenizer(), prices, cores=2)
    plans, known = [PrunePlan.parse(text) for text in ("dense", "0", "1", "2", "0,2")], Measurements(executor.layout)
    for line in executor.measure("search", plans, known):
        known.add(line)
    again = Stability("no file is needed to read results")
    values = [again.value(known.rows("search", plan, "it")) for plan in plans]
    assert values[0] == 1.0
    assert all(0 <= v <= 1 for v in values)
    assert min(values) < 1
