"""Losses of plans: what they cost, that each is measured once, and the same bits however they are measured."""

import numpy as np
import pytest
from anatomies import IDS, PRICES, Shares, measured, replayed
from families import tiny_model
from oracle import oracle_losses

from searcher.anatomy import interactions
from searcher.anatomy.losses import open_losses
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.errors import UsageError

PLANS = interactions.plans_for(all_units(4, Granularity.SUBLAYER))


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr("searcher.replay.batching.GROUP_TOKENS", {"cpu": 96})


def test_equals_the_oracle():
    losses = measured(replayed("gemma2"), PLANS)
    for plan in PLANS[::7]:
        np.testing.assert_allclose(losses.of(plan), oracle_losses(tiny_model("gemma2"), IDS, plan).numpy(), rtol=1e-5)


def test_cost_is_what_is_run():
    losses, shares = open_losses(replayed("llama"), IDS, PRICES, cores=1), Shares()
    expected = losses.cost(PLANS)
    lines = list(losses.measure(PLANS, shares))
    assert sum(line.layer_forwards for line in lines) == pytest.approx(expected.layer_forwards)
    assert sum(line.heads for line in lines) == pytest.approx(expected.heads) == len(PLANS) * len(IDS)
    assert shares.complete()
    assert losses.cost(PLANS).layer_forwards == losses.cost(PLANS).heads == 0
    assert list(losses.measure(PLANS)) == []


def test_goes_on_from_what_was_stored_with_the_same_bits():
    replay = replayed("qwen3_moe")
    whole = measured(replay, PLANS)
    begun = open_losses(replay, IDS, PRICES, cores=1)
    stored = [line for line, _ in zip(begun.measure(PLANS), range(50), strict=False)]
    resumed = open_losses(replay, IDS, PRICES, cores=2)
    for line in stored:
        resumed.known.add(line)
    rest = list(resumed.measure(PLANS))
    done = {(line.plan, line.group, row) for line in stored for row in line.rows}
    assert not done & {(line.plan, line.group, row) for line in rest for row in line.rows}
    assert all(np.array_equal(resumed.of(plan), whole.of(plan)) for plan in PLANS)


def test_a_loss_that_is_missing_is_an_error():
    losses = measured(replayed("llama"), PLANS[:3])
    with pytest.raises(UsageError, match=r"Plan 0.attn,3.ffn has not been measured"):
        losses.of(PrunePlan.parse("0.attn,3.ffn"))
