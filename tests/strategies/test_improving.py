"""Strategies that improve plans: what they ask, what they prove, and what they say of themselves."""

import dataclasses
import json
from functools import cache
from itertools import combinations

import numpy as np
import pytest

from searcher.contracts import registry
from searcher.contracts.cost import Prices
from searcher.contracts.games import additive_game, interacting_game, limited_spaces, make_space, play
from searcher.contracts.ledger import Ledger, Limits
from searcher.contracts.plan import Granularity, Part, PrunePlan
from searcher.contracts.scoreboard import removal_matrix
from searcher.contracts.space import Need
from searcher.contracts.tariff import Tariff
from searcher.errors import UsageError
from searcher.runs.measurement import to_plain_json
from strategies.beam import Beam
from strategies.evolutionary import Evolutionary
from strategies.exhaustive import Exhaustive
from strategies.greedy import Greedy
from strategies.interactions import Interactions
from strategies.local import Local
from strategies.oscillating import Oscillating
from strategies.portfolio import Portfolio
from strategies.quadratic import fit, lowest

QUICK = {"optuna": {"trials": 60, "patience": 40}}
"""A sampler thinks long about spaces that are soon exhausted."""
IMPROVING = [Evolutionary(), Interactions(), Local(), Oscillating(), Portfolio()]


def best_of(played, space, game):
    return min((plan for plan in played.plans if space.size_of(plan) == space.size), key=game)


def space_for(strategy, num_blocks, size, **options):
    return make_space(num_blocks, size, statistics=strategy.statistics, **options)


@pytest.mark.parametrize("strategy", IMPROVING, ids=lambda strategy: type(strategy).__name__)
def test_begin_at_the_plan_given(strategy):
    start = PrunePlan.parse("2,5,7")
    space = dataclasses.replace(space_for(strategy, 10, 3), start=start)
    played = play(strategy, space, additive_game())
    assert strategy.starts
    assert played.plans[0] in (start, PrunePlan())
    assert start in played.asks[0].plans + played.asks[1].plans


@pytest.mark.parametrize("strategy", [*IMPROVING, Beam(), Greedy()], ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize("limits", [{Part.ATTENTION: 1}, {Part.FFN: 2}, {Part.ATTENTION: 2, Part.FFN: 2}])
def test_limits_on_a_free_mix_are_kept(strategy, limits):
    space = dataclasses.replace(space_for(strategy, 6, 4, granularity=Granularity.SUBLAYER), most=limits)
    played = play(strategy, space, interacting_game(0, 6))
    legal_sizes = range(space.largest + 1)
    for plan in played.plans:
        assert space.allows(plan)
        assert space.size_of(plan) in legal_sizes
    assert space.allows(played.outcome.plans[0])
    assert space.size_of(played.outcome.plans[0]) == 4


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN["strategy"]))
def test_a_range_gives_a_plan_of_every_size_in_one_search(name):
    strategy = registry.make("strategy", name, QUICK.get(name, {}))
    space = dataclasses.replace(space_for(strategy, 9, 4), sizes=(1, 2, 3, 4))
    outcome = play(strategy, space, additive_game(seed=2)).outcome
    assert {space.size_of(plan) for plan in outcome.plans} >= {1, 2, 3, 4}


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN["strategy"]))
@pytest.mark.parametrize("works", [0, 1, 2])
def test_a_model_that_hardly_any_plan_leaves_working(name, works):
    """All plans break it, or all but the dense one, or all but those of one unit."""
    strategy = registry.make("strategy", name, QUICK.get(name, {}))
    space = space_for(strategy, 8, 3)
    outcome = play(strategy, space, lambda plan: 1.0 if len(plan.removed) < works else np.inf).outcome
    assert space.size_of(outcome.plans[0]) == 3
    json.dumps(to_plain_json(outcome.notes), allow_nan=False)


@pytest.mark.parametrize("strategy", IMPROVING, ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize("limit", [7, 25, 60])
def test_a_limit_is_used_and_kept(strategy, limit):
    space, game = space_for(strategy, 14, 5), interacting_game(1, 14)
    played = play(strategy, space, game, max_evaluations=limit)
    assert played.evaluations(space) <= limit
    assert space.size_of(played.outcome.plans[0]) == 5


def test_local_search_proves_what_it_says():
    space, game = make_space(10, 4), interacting_game(3, 10)
    outcome = play(Local(), space, game).outcome
    optimum = outcome.notes["local_optima"]["4"]
    plan = PrunePlan.parse(optimum["plan"])
    assert plan == outcome.plans[0]
    assert optimum["neighbours"] == 4 * 6
    assert min(map(game, space.swaps(plan))) >= game(plan)
    assert str(plan) in outcome.notes["summary"][0]


def test_local_search_that_was_stopped_proves_nothing():
    outcome = play(Local(), make_space(10, 4), interacting_game(3, 10), max_evaluations=40).outcome
    assert outcome.notes["local_optima"] == {}


def test_oscillating_takes_a_wrong_step_of_greedy_back():
    """Blocks 1 and 2 are free together but dear alone; greedy takes 0 first and cannot give it back."""

    def game(plan):
        gone = {unit.block for unit in plan.removed}
        return 0.0 if gone == {1, 2} else len(gone) + (0.5 if gone & {1, 2} else 0.0)

    assert str(play(Oscillating(), make_space(5, 2), game).outcome.plans[0]) == "1-2"


def test_a_wide_beam_is_exhaustive():
    space, game = make_space(7, 3), interacting_game(5, 7)
    played = play(Beam(width=1000), space, game)
    assert set(space.plans(3)) <= set(played.plans)


def test_a_beam_of_one_is_greedy():
    space, game = make_space(9, 4), interacting_game(2, 9)
    assert play(Beam(width=1), space, game).outcome.plans[0] == play(Greedy(), space, game).outcome.plans[0]


@pytest.mark.parametrize("seed", range(4))
def test_evolution_looks_at_offspring_on_a_quarter_of_the_windows_first(seed):
    space = make_space(14, 5, seed=seed, num_windows=8)
    played = play(Evolutionary(generations=3), space, interacting_game(seed, 14))
    looks = [ask for ask in played.asks if ask.windows is not None]
    assert [ask.windows for ask in looks] == [(0, 1)] * 3
    for look, full in zip(looks, played.asks[played.asks.index(looks[0]) + 1 :: 2], strict=True):
        assert len(look.plans) == 24
        assert len(full.plans) == 8
        assert set(full.plans) < set(look.plans)


def test_the_quadratic_fit_is_exact_where_the_game_is_quadratic():
    space, rng = make_space(8, 3), np.random.default_rng(0)
    single, pair = rng.uniform(0.1, 1.0, 8), np.triu(rng.normal(0, 0.3, (8, 8)), 1)
    plans = [PrunePlan.of(units) for size in range(5) for units in combinations(space.units, size)]
    removed = removal_matrix(plans, space)
    scores = 2.0 + removed @ single + np.einsum("pi,ij,pj->p", removed, pair, removed)
    model = fit(removed, scores, 3)
    np.testing.assert_allclose(model.predict(removed), scores, atol=0.1)
    of_size = removed.sum(axis=1) == 3
    assert np.corrcoef(model.predict(removed[of_size]), scores[of_size])[0, 1] > 0.99
    found = [plan for _, plan in lowest(model, space, 3, [plans[-1]], count=5)]
    predicted = dict(zip(plans, model.predict(removed).tolist(), strict=True))
    assert found == sorted((plan for plan in plans if space.size_of(plan) == 3), key=predicted.get)[:5]


def test_tabu_search_finds_what_enumeration_finds(monkeypatch):
    space, rng = make_space(12, 5), np.random.default_rng(1)
    removed = removal_matrix([space.sample(rng) for _ in range(80)], space)
    model = fit(removed, removed @ rng.uniform(0, 1, 12) + rng.normal(0, 0.3, 80), 5)
    exact = lowest(model, space, 5, [], count=1)[0]
    monkeypatch.setattr("strategies.quadratic.ENUMERABLE", 0)
    starts = [space.sample(rng) for _ in range(3)]
    value, plan = lowest(model, space, 5, starts, count=1)[0]
    assert plan == exact[1]
    assert value == pytest.approx(exact[0])


def test_pairs_are_measured_and_the_correlation_is_that_of_predictions_made_before():
    space, game = make_space(7, 3), interacting_game(1, 7)
    played = play(Interactions(surrogate="pairs", rounds=2), space, game)
    assert set(played.asks[0].plans) == {PrunePlan.of(u) for size in (0, 1, 2) for u in combinations(space.units, size)}
    rounds = played.outcome.notes["rounds"]
    assert [found["plans"] for found in rounds] == [12, 12]
    assert all(-1 <= found["rank_correlation"] <= 1 for found in rounds)
    assert f"{played.outcome.notes['rank_correlation']:.2f}" in played.outcome.notes["summary"][0]


@pytest.mark.parametrize("rounds", [1, 2])
def test_interactions_has_a_plan_of_each_size_however_few_its_rounds(rounds):
    """Pairs are plans of up to two units, and each round is for one size."""
    space = dataclasses.replace(make_space(7, 5), sizes=(1, 2, 3, 4, 5))
    outcome = play(Interactions(surrogate="pairs", rounds=rounds), space, interacting_game(1, 7)).outcome
    assert {space.size_of(plan) for plan in outcome.plans} >= {1, 2, 3, 4, 5}


def test_a_start_of_one_size_leads_to_all_others():
    """Also to sizes nearer to the dense model, which has been measured too."""
    space = dataclasses.replace(make_space(7, 4), sizes=(1, 2, 3, 4), start=PrunePlan.parse("1,3,4,6"))
    for strategy in (Interactions(), Local(), Oscillating(), Evolutionary()):
        outcome = play(strategy, space, interacting_game(1, 7)).outcome
        assert {space.size_of(plan) for plan in outcome.plans} >= {1, 2, 3, 4}


@pytest.mark.parametrize("seed", range(6))
def test_a_portfolio_is_never_worse_than_greedy_at_half_as_much_again(seed):
    space, game = space_for(Portfolio(), 12, 5, seed=seed), interacting_game(seed, 12)
    greedy = play(Greedy(), space, game)
    played = play(Portfolio(), space, game, max_evaluations=1.5 * greedy.evaluations(space))
    assert game(best_of(played, space, game)) <= game(greedy.outcome.plans[0])
    assert "greedy" in played.outcome.notes["members"]["in_full"]
    assert played.outcome.notes["summary"][0].startswith(
        "In full: influence, influence by relative-l1, contiguous, greedy"
    )


def test_a_portfolio_says_what_it_left_out():
    space = space_for(Portfolio(), 12, 5)
    played = play(Portfolio(), space, additive_game(), max_evaluations=20)
    assert "left out: greedy (it does not fit the limit)" in played.outcome.notes["summary"][0]
    statistics = {name: values[::2] if values.ndim == 1 else values for name, values in space.statistics.items()}
    protected = dataclasses.replace(space, units=space.units[::2], statistics=statistics)
    played = play(Portfolio(), protected, additive_game())
    assert "contiguous" in played.outcome.notes["members"]["left_out"]


def paid(space, prices, asks):
    """What these asks cost, and a ledger that has charged them."""
    ledger = Ledger(Tariff(space.num_blocks, prices, space.num_windows, 1, 1.0, 0.0, 1.0, 0.0), Limits())
    for ask in asks:
        ledger.charge(ask.plans, ask.windows)
    return 1000 * ledger.tariff.total(ledger.charged)


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("attention", [0.2, 0.3, 0.6])
def test_a_portfolio_starts_greedy_only_if_it_fits(granularity, attention):
    """By what it is charged round by round: all rounds in one batch would share more, and seem to cost a tenth less."""
    prices = Prices((1.0, 1 - attention, attention, 0.0), 0.5)
    space = space_for(Portfolio(), 9, 4, granularity=granularity)
    for seed in range(3):
        game = interacting_game(seed, 9)
        greedy = paid(space, prices, play(Greedy(), space, game).asks)
        before = play(Portfolio(), space, game, max_cost=0.5 * greedy, prices=prices)
        warm = paid(space, prices, [ask for ask in before.asks if space.size in map(space.size_of, ask.plans)][:3])
        started = []
        for share in (0.9, 0.97, 0.999, 1.0, 1.001, 1.03, 1.1, 1.5):
            played = play(Portfolio(), space, game, max_cost=warm + share * greedy, prices=prices)
            members = played.outcome.notes["members"]
            assert ("greedy" in members["in_full"]) != ("greedy" in members["left_out"]), share
            started.append("greedy" in members["in_full"])
        assert not any(started[:2])
        assert started == sorted(started)
        assert started[-1]


LEGAL = limited_spaces(Portfolio().statistics)


@pytest.mark.parametrize("name", LEGAL)
@pytest.mark.parametrize("enumerable", [0, 50_000], ids=["tabu", "enumerated"])
def test_the_surrogate_proposes_legal_plans_only(monkeypatch, name, enumerable):
    monkeypatch.setattr("strategies.quadratic.ENUMERABLE", enumerable)
    space, rng = LEGAL[name], np.random.default_rng(0)
    for size in space.sizes:
        known = [space.sample(rng, size) for _ in range(20)]
        removed = removal_matrix(known, space)
        model = fit(removed, removed @ rng.uniform(0, 1, len(space.units)) + rng.normal(0, 0.3, len(known)), size)
        found = lowest(model, space, size, known[:3], count=8)
        plans = [plan for _, plan in found]
        assert all(space.allows(plan) and space.size_of(plan) == size for plan in plans)
        assert len(set(plans)) == len(plans) == min(8, space.count(size))
        np.testing.assert_allclose([value for value, _ in found], model.predict(removal_matrix(plans, space)))
        every = list(space.plans(size))
        assert found[0][0] == pytest.approx(model.predict(removal_matrix(every, space)).min())


@pytest.mark.parametrize(("needed", "legal"), [(8, 1), (7, 65), (5, None)])
@pytest.mark.parametrize("strategy", [Interactions(), Portfolio()], ids=["interactions", "portfolio"])
def test_few_legal_plans_among_many_are_found(strategy, needed, legal):
    """Eight of sixteen sublayers, most of which must be attention: of 12,870 plans, 1 or 65 will do."""
    space = space_for(strategy, 8, 8, granularity=Granularity.SUBLAYER)
    need = Need({unit: float(unit.part is Part.ATTENTION) for unit in space.units}, needed)
    space = dataclasses.replace(space, needs=(need,))
    game = cache(interacting_game(0, 8))
    played = play(strategy, space, game, max_evaluations=150)
    of_size = {plan for plan in played.plans if space.size_of(plan) == 8}
    assert all(map(space.allows, played.plans))
    assert legal in (space.count(8), None)
    if legal:
        best = min(space.plans(8), key=game)
        assert min(of_size, key=game) == best


def test_what_is_enumerated_is_what_is_legal_not_every_combination():
    """8,008 of 64,512,240 sets of ten sublayers: all of those would not fit into memory."""
    space = space_for(Interactions(), 16, 10, granularity=Granularity.SUBLAYER)
    need = Need({unit: float(unit.part is Part.ATTENTION) for unit in space.units}, 10.0)
    space = dataclasses.replace(space, needs=(need,))
    assert space.count(10) == 8008
    assert space.removals(10).shape == (8008, 32)
    played = play(Interactions(rounds=2, swaps=False), space, additive_game())
    assert all(map(space.allows, played.plans))


def test_too_many_plans_are_refused_before_any_is_measured():
    with pytest.raises(UsageError, match="There are 30,045,015 plans, more than the 20,000"):
        play(Exhaustive(), make_space(30, 10), additive_game())


def test_a_narrowed_space_is_searched_whole():
    space, game = make_space(12, 3), interacting_game(0, 12)
    spans = play(Exhaustive(spans=True), space, game)
    assert set(spans.plans) == {PrunePlan.of(space.units[i : i + 3]) for i in range(10)}
    every = play(Exhaustive(every=3), space, game)
    assert set(every.plans) == {PrunePlan.of(units) for units in combinations(space.units[::3], 3)}


def test_an_exhaustive_search_that_was_stopped_certifies_nothing():
    outcome = play(Exhaustive(), make_space(8, 3), interacting_game(0, 8), max_evaluations=50).outcome
    certificate = outcome.notes["certificates"]["3"]
    assert (certificate["complete"], certificate["measured"], certificate["plans"]) == (False, 50, 56)
    assert outcome.notes["summary"] == ["Size 3: 50 of 56 plans were measured: no certificate."]
