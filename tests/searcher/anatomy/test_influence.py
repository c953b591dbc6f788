"""Influence: metrics as strategies see them, true removals as the oracle has them, their correlation as scipy has it."""

import json

import numpy as np
import pytest
import torch
from anatomies import IDS, PRICES, Shares, measured, replayed
from families import tiny_model
from oracle import oracle_losses
from scipy import stats

from searcher.anatomy import influence
from searcher.anatomy.influence import METRICS, measure_influence, measure_removals
from searcher.anatomy.losses import open_losses
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.contracts.statistics import cost_of
from searcher.errors import UsageError
from searcher.replay.dense_statistics import measure_statistics


@pytest.mark.parametrize(("family", "granularity"), [("llama", "sublayer"), ("gemma2", "ffn"), ("bloom", "block")])
def test_metrics_and_removals(family, granularity):
    units = all_units(4, Granularity(granularity))
    replay = replayed(family, granularity=Granularity(granularity))
    losses = open_losses(replay, IDS, PRICES, cores=1)
    assert list(measure_removals(losses, units))
    found = measure_influence(replay, IDS, units, losses)

    expected = measure_statistics(replay, IDS, METRICS, units)
    expected["cosine"] = 1 - expected["cosine"]
    assert tuple(found.metrics) == METRICS
    for name, values in expected.items():
        np.testing.assert_allclose(found.metrics[name], values, rtol=1e-6)

    dense, *removed = [oracle_losses(tiny_model(family), IDS, plan).numpy() for plan in influence.plans_for(units)]
    np.testing.assert_allclose(found.dense, dense, rtol=1e-5)
    np.testing.assert_allclose(found.removed, removed, rtol=1e-5)
    rises = [(losses.of(PrunePlan.of([unit])) - losses.of(PrunePlan())).mean() for unit in units]
    np.testing.assert_allclose(found.leave_one_out, rises, rtol=1e-12)
    for name, correlation in found.correlations.items():
        assert correlation.value == pytest.approx(stats.spearmanr(found.metrics[name], rises).statistic)
        assert correlation.count == len(units)
    assert json.loads(json.dumps(found.facts()))["units"] == len(units)


def test_the_same_bits_again_and_told_how_far():
    replay, units, shares = replayed("llama"), all_units(4, Granularity.SUBLAYER), Shares()
    losses = measured(replay, influence.plans_for(units))
    one, other = (
        measure_influence(replay, IDS, units, losses, done=shares),
        measure_influence(replay, IDS, units, losses),
    )
    assert all(np.array_equal(values, other.arrays()[name]) for name, values in one.arrays().items())
    assert shares.complete()


def test_cost_is_that_of_statistics_and_losses():
    units = all_units(4, Granularity.BLOCK)
    losses = open_losses(replayed("llama", granularity=Granularity.BLOCK), IDS, PRICES, cores=1)
    forwards, heads = cost_of(METRICS, units, 4, PRICES.weight)
    removals = losses.cost(influence.plans_for(units))
    found = influence.cost(losses, len(IDS), units)
    assert found.layer_forwards == pytest.approx(forwards * 7 + removals.layer_forwards)
    assert found.heads == pytest.approx(heads * 7 + removals.heads)


def test_some_metrics_and_losses_that_are_missing():
    replay, units = replayed("llama"), all_units(4, Granularity.FFN)
    losses = measured(replay, influence.plans_for(units))
    assert list(measure_influence(replay, IDS, units, losses, ["magnitude"]).metrics) == ["magnitude"]
    with pytest.raises(UsageError, match="has not been measured"):
        measure_influence(replay, IDS, all_units(4, Granularity.ATTENTION), losses, ["magnitude"])


def test_within_inference_mode():
    """As the command line has it; the weights themselves were made outside."""
    replay, units = replayed("llama"), all_units(4, Granularity.FFN)
    losses = measured(replay, influence.plans_for(units))
    outside = measure_influence(replay, IDS, units, losses)
    with torch.inference_mode():
        inside = measure_influence(replay, IDS, units, losses)
    assert all(np.array_equal(values, outside.metrics[name]) for name, values in inside.metrics.items())
