"""Pair interactions against brute force, and how often they are seen where there are none."""

import json

import numpy as np
import pytest
from anatomies import IDS, PRICES, Shares, made_up, measured, replayed
from families import tiny_model
from oracle import oracle_losses
from scipy import stats

from searcher.anatomy.interactions import Interactions, cost, find_interactions, measure_pairs, plans_for
from searcher.anatomy.losses import open_losses
from searcher.contracts.plan import Granularity, PrunePlan, Unit, all_units
from searcher.errors import UsageError


@pytest.mark.parametrize(
    ("family", "granularity"),
    [("llama", "sublayer"), ("gemma2", "attention"), ("qwen3_moe", "ffn"), ("bloom", "block"), ("gpt2", "block")],
)
def test_equals_brute_force(family, granularity):
    model, units = tiny_model(family), all_units(4, Granularity(granularity))
    losses = open_losses(replayed(family, model, Granularity(granularity)), IDS, PRICES, cores=1)
    assert list(measure_pairs(losses, units))
    found = find_interactions(losses, units)

    def loss(*removed):
        return oracle_losses(model, IDS, PrunePlan.of(removed)).double().numpy()

    n = len(units)
    assert found.per_window.shape == (n, n, len(IDS))
    for i, one in enumerate(units):
        for j, other in enumerate(units):
            if i == j:
                assert np.isnan(found.matrix[i, j])
                continue
            expected = loss(one, other) - loss(one) - loss(other) + loss()
            np.testing.assert_allclose(found.per_window[i, j], expected, atol=2e-6)
            assert found.matrix[i, j] == pytest.approx(expected.mean(), abs=2e-6)
            assert found.errors[i, j] == pytest.approx(stats.sem(expected), rel=1e-3, abs=1e-6)
    assert np.array_equal(found.matrix, found.matrix.T, equal_nan=True)
    json.dumps(found.facts(), allow_nan=False)


def test_both_sublayers_of_a_block_are_a_pair_like_any_other():
    units = all_units(4, Granularity.SUBLAYER)
    assert str(PrunePlan.of(units[2:4])) == "1"
    plans = plans_for(units)
    assert len(plans) == len(set(plans)) == 1 + 8 + 28


def test_shares_prefixes_and_measures_nothing_twice():
    units, shares = all_units(4, Granularity.SUBLAYER), Shares()
    losses = open_losses(replayed("llama"), IDS, PRICES, cores=1)
    expected = cost(losses, units)
    lines = list(measure_pairs(losses, units, shares))
    assert sum(line.layer_forwards for line in lines) == pytest.approx(expected.layer_forwards)
    naive = sum(PRICES.weight[action] for plan in plans_for(units) for action in plan.actions(4)) * len(IDS)
    assert expected.layer_forwards < 0.7 * naive
    assert shares.complete()
    assert not list(measure_pairs(losses, units))
    assert find_interactions(losses, units[:3]).matrix.shape == (3, 3)


def test_the_same_bits_again():
    units, replay = all_units(4, Granularity.SUBLAYER), replayed("gemma2")
    one, other = (find_interactions(measured(replay, plans_for(units), cores=n), units) for n in (1, 2))
    assert all(
        np.array_equal(values, other.arrays()[name], equal_nan=name != "units") for name, values in one.arrays().items()
    )


def test_what_is_missing_is_an_error():
    units = all_units(4, Granularity.SUBLAYER)
    losses = measured(replayed("llama"), plans_for(units)[:-1])
    with pytest.raises(UsageError, match="has not been measured"):
        find_interactions(losses, units)


def synthetic(rng, planted, count=8, windows=12):
    """Losses that add up but for the planted pairs, with noise of their own on every plan and window."""
    units = all_units(count, Granularity.BLOCK)
    prices = rng.uniform(0.1, 1, count)

    def loss(plan):
        gone = tuple(unit.block for unit in plan.removed)
        return prices[[*gone]].sum() + planted.get(gone, 0.0) + level + rng.normal(0, 0.02, windows)

    level = rng.normal(0, 1, windows)  # some windows are harder: the same for all plans
    return units, made_up(count, {plan: loss(plan) for plan in plans_for(units)})


def test_planted_pairs_are_found_in_their_order():
    planted = {(0, 3): 0.9, (2, 5): 0.5, (1, 6): -0.7, (4, 7): -0.4}
    units, losses = synthetic(np.random.default_rng(0), planted)
    found = find_interactions(losses, units)
    assert [tuple(unit.block for unit in pair.units) for pair in found.redundant()] == [(0, 3), (2, 5)]
    assert [tuple(unit.block for unit in pair.units) for pair in found.complementary()] == [(1, 6), (4, 7)]
    for pair in (*found.redundant(), *found.complementary()):
        value = planted[tuple(unit.block for unit in pair.units)]
        assert pair.low < value < pair.high
        assert not pair.low <= 0 <= pair.high
    facts = found.facts(most=1)
    assert facts["redundant_count"] == facts["complementary_count"] == 2
    assert [pair["units"] for pair in facts["redundant"]] == [["0", "3"]]
    assert facts["intervals"] == "95% for all 28 pairs at once (Bonferroni)"


def test_nothing_is_found_where_there_is_nothing():
    rng, wrong, alone, t = np.random.default_rng(1), 0, 0, stats.t.ppf(0.975, 11)
    for _ in range(200):
        units, losses = synthetic(rng, {})
        found = find_interactions(losses, units)
        wrong += bool(found.redundant() or found.complementary())
        alone += bool((np.abs(found.matrix) > t * found.errors).any())
    assert wrong / 200 < 0.09, "95% intervals for all pairs at once exclude 0 more often than in 5%"
    assert alone / 200 > 0.4, "one by one, some pair of the 28 would often be found"


def test_windows_of_one_document_count_less():
    units, losses = synthetic(np.random.default_rng(2), {})
    alone, clustered = find_interactions(losses, units), find_interactions(losses, units, [0] * 6 + [1] * 6)
    pair = np.triu_indices(8, 1)
    assert (
        clustered.half_widths[pair] / clustered.errors[pair] > 3 * alone.half_widths[pair] / alone.errors[pair]
    ).all()
    one_document = find_interactions(losses, units, [0] * 12)
    assert not (*one_document.redundant(), *one_document.complementary())
    assert np.isnan(one_document.half_widths).all()


def test_a_plan_that_breaks_the_model_leaves_its_pairs_unknown():
    ones = np.ones(5)
    double = np.full((3, 3, 5), 4.0)
    double[0, 1, 2] = double[1, 0, 2] = np.inf
    found = Interactions((Unit(0), Unit(1), Unit(2)), ones, np.array([2 * ones, 2 * ones, 2 * ones]), double)
    assert np.isnan(found.matrix[0, 1])
    assert found.matrix[0, 2] == 1
    assert found.facts()["unknown"] == 1
    assert [pair.units for pair in found.redundant()] == [(Unit(0), Unit(2)), (Unit(1), Unit(2))]
    broken = Interactions(found.units, ones, np.array([np.inf * ones, 2 * ones, 2 * ones]), double)
    assert np.isnan(broken.matrix[0]).all()
    assert broken.matrix[1, 2] == 1
