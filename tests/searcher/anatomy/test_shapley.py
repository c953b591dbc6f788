"""Shapley interactions against their definition, shapiq's own exact computer, and games of pairs."""

import json
from itertools import combinations
from math import factorial

import numpy as np
import pytest
from anatomies import IDS, PRICES, Shares, made_up, replayed

from searcher.anatomy.losses import open_losses
from searcher.anatomy.shapley import Sampling, cost, find_shapley, measure_coalitions
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.errors import UsageError


def sets(units):
    return [removed for size in range(len(units) + 1) for removed in combinations(units, size)]


def by_definition(loss, units):
    """SII of pairs (Grabisch & Roubens 1999): discrete derivatives averaged over what else is gone."""
    n = len(units)
    found = np.full((n, n), np.nan)
    for i, j in combinations(range(n), 2):
        rest = [unit for k, unit in enumerate(units) if k not in (i, j)]
        total = 0.0
        for gone in sets(rest):
            both = loss(*gone, units[i], units[j]) - loss(*gone, units[i]) - loss(*gone, units[j]) + loss(*gone)
            total += factorial(n - len(gone) - 2) * factorial(len(gone)) / factorial(n - 1) * both
        found[i, j] = found[j, i] = total
    return found


def test_k_sii_of_all_sets_by_definition():
    units, shares = all_units(3, Granularity.SUBLAYER), Shares()
    losses = open_losses(replayed("llama", num_blocks=3), IDS, PRICES, cores=1)
    sampling = Sampling(units, budget=64)
    assert sampling.exact
    assert len(sampling.plans) == 64
    expected = cost(losses, sampling).layer_forwards
    assert sum(line.layer_forwards for line in measure_coalitions(losses, sampling, shares)) == pytest.approx(expected)
    assert shares.complete()
    found = find_shapley(losses, sampling)
    assert (found.agreement, found.broken) == (None, 0)
    pairs = by_definition(lambda *gone: losses.of(PrunePlan.of(gone)).mean(), units)
    np.testing.assert_allclose(found.pairs, pairs, atol=1e-6)
    everything = losses.of(PrunePlan.of(units)).mean() - losses.of(PrunePlan()).mean()
    assert found.total == pytest.approx(everything)
    assert found.single.sum() + np.nansum(found.pairs) / 2 == pytest.approx(everything, abs=1e-6)
    facts = json.loads(json.dumps(found.facts(), allow_nan=False))
    assert (facts["index"], facts["plans"], facts["exact"]) == ("k-SII", 64, True)


def game(units, seed=0, windows=3, curved=0.0):
    rng = np.random.default_rng(seed)
    prices, pairs = rng.uniform(0.1, 1, len(units)), np.triu(rng.normal(0, 0.3, (len(units), len(units))), 1)
    place = {unit: i for i, unit in enumerate(units)}

    def loss(plan):
        gone = [place[unit] for unit in plan.units(Granularity.BLOCK)]
        value = prices[gone].sum() + pairs[np.ix_(gone, gone)].sum()
        return 3 + value + curved * np.exp(min(value, 8)) + np.linspace(-1, 1, windows)

    return loss, pairs + pairs.T


def found_in(loss, sampling):
    return find_shapley(made_up(len(sampling.units), {plan: loss(plan) for plan in sampling.plans}), sampling)


@pytest.mark.parametrize("index", ["k-SII", "FSII"])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_all_sets_equal_shapiqs_exact_computer(index, n):
    from shapiq import ExactComputer

    units = all_units(n, Granularity.BLOCK)
    loss, _ = game(units, seed=n, curved=0.02)

    def shapiqs(coalitions):
        return np.array([loss(PrunePlan.of(units[i] for i in np.flatnonzero(row))).mean() for row in coalitions])

    exact = ExactComputer(shapiqs, n)(index, 2)
    found = found_in(loss, Sampling(units, index, budget=1 << n))
    np.testing.assert_allclose(found.single, exact.get_n_order_values(1), atol=1e-5)
    off = ~np.eye(n, dtype=bool)
    np.testing.assert_allclose(found.pairs[off], exact.get_n_order_values(2)[off], atol=1e-5)


@pytest.mark.parametrize("index", ["k-SII", "FSII"])
def test_a_budget_finds_the_interactions_of_a_game_of_pairs(index):
    units = all_units(16, Granularity.BLOCK)
    loss, pairs = game(units)
    sampling = Sampling(units, index, budget=1000)
    assert not sampling.exact
    assert len(sampling.plans) <= 1000
    assert PrunePlan() in sampling.plans
    found = found_in(loss, sampling)
    off = np.triu_indices(16, 1)
    assert np.corrcoef(found.pairs[off], pairs[off])[0, 1] > 0.99
    assert found.agreement.value > 0.97
    assert found.agreement.count == 120
    assert found.single.sum() + np.nansum(found.pairs) / 2 == pytest.approx(found.total, abs=1e-4)


def test_agreement_says_when_the_budget_was_too_small():
    units = all_units(20, Granularity.BLOCK)
    loss, _ = game(units, curved=0.05)
    assert found_in(loss, Sampling(units, budget=500)).agreement.value < 0.5


def test_the_seed_decides_which_plans():
    units = all_units(14, Granularity.BLOCK)
    one, same, other = (Sampling(units, budget=300, seed=seed) for seed in (1, 1, 2))
    assert one.plans == same.plans
    assert set(one.plans) != set(other.plans)
    loss, _ = game(units)
    assert np.array_equal(found_in(loss, one).pairs, found_in(loss, same).pairs, equal_nan=True)


def test_what_was_stored_is_not_measured_again():
    units = all_units(3, Granularity.SUBLAYER)
    replay, sampling = replayed("llama", num_blocks=3), Sampling(units, budget=64)
    begun = open_losses(replay, IDS, PRICES, cores=1)
    stored = [line for line, _ in zip(measure_coalitions(begun, sampling), range(20), strict=False)]
    resumed = open_losses(replay, IDS, PRICES, cores=1)
    for line in stored:
        resumed.known.add(line)
    rest = list(measure_coalitions(resumed, sampling))
    assert {line.plan for line in rest} == set(sampling.plans) - {line.plan for line in stored}
    whole = open_losses(replay, IDS, PRICES, cores=1)
    list(measure_coalitions(whole, sampling))
    assert np.array_equal(find_shapley(resumed, sampling).pairs, find_shapley(whole, sampling).pairs, equal_nan=True)


def test_a_broken_plan_counts_as_the_worst_that_is_not():
    units = all_units(4, Granularity.BLOCK)
    loss, _ = game(units)
    sampling = Sampling(units, budget=16)
    everything = PrunePlan.of(units)
    worst = max(loss(plan).mean() for plan in sampling.plans if plan != everything)
    broken = found_in(lambda plan: np.full(3, np.nan) if plan == everything else loss(plan), sampling)
    counted = found_in(lambda plan: np.full(3, worst) if plan == everything else loss(plan), sampling)
    assert broken.broken == 1
    np.testing.assert_allclose(broken.pairs, counted.pairs, atol=1e-6)
    with pytest.raises(UsageError, match="dense model has no finite loss"):
        found_in(lambda plan: np.full(3, np.inf if plan == PrunePlan() else 1.0), sampling)


def test_refusals(monkeypatch):
    units = all_units(16, Granularity.BLOCK)
    with pytest.raises(UsageError, match="273 plans are too few for the interactions of 16 units") as error:
        Sampling(units, budget=273)
    assert "274 or more" in error.value.hint
    with pytest.raises(UsageError, match="15 plans are too few") as error:
        Sampling(units[:4], budget=15)
    assert "16 or more" in error.value.hint
    with pytest.raises(UsageError, match="1 units have no interactions"):
        Sampling(units[:1])
    with pytest.raises(UsageError, match="Index 'SII' is not known"):
        Sampling(units[:3], "SII")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="need shapiq"):
        Sampling(units[:3])
