"""Racing: how often the best plan is lost, what is saved, and what happens at the edges."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ttest_rel

from searcher.contracts import racing
from searcher.contracts.games import make_space
from searcher.contracts.plan import PrunePlan, Unit
from searcher.contracts.racing import looks, rank
from searcher.contracts.strategy import Ask, Scores, SearchStopped

ALPHA = 0.05


def singles(count):
    return tuple(PrunePlan((Unit(i),)) for i in range(count))


def answer(ask, plans, losses):
    """What a search loop would say: losses are (plans, windows), broken ones NaN or inf."""
    windows = list(range(losses.shape[1]) if ask.windows is None else ask.windows)
    rows = losses[[plans.index(plan) for plan in ask.plans]]
    per_window = np.full((len(rows), 1, losses.shape[1]), np.nan)
    per_window[:, 0, windows] = rows[:, windows]
    means = rows[:, windows].mean(axis=1, keepdims=True)
    return Scores(ask.plans, np.where(np.isfinite(means), means, np.inf), per_window)


def race(losses, keep=1, alpha=ALPHA, plans=None, answered=answer, stop_at=None):
    """Race on losses (plans, windows): ranking, asks, and the share of window evaluations that were made."""
    plans = plans or singles(len(losses))
    space = make_space(len(losses), 1, num_windows=losses.shape[1], racing=alpha)
    generator, asks, told = rank(space, plans, keep), [], None
    while True:
        try:
            if stop_at is not None and len(asks) > stop_at:
                ask = generator.throw(SearchStopped("limit", told))
            else:
                ask = next(generator) if told is None else generator.send(told)
        except StopIteration as end:
            made = {(plan, w) for ask in asks for plan in ask.plans for w in (ask.windows or range(losses.shape[1]))}
            return SimpleNamespace(ranking=end.value, asks=asks, share=len(made) / losses.size)
        asks.append(ask)
        told = answered(ask, plans, losses)


def lognormal(rng, sigma, shape):
    """Skewed to the right, with standard deviation 1 (skewness 1.8 for sigma 0.5, 3.3 for 0.75, 6.2 for 1)."""
    return rng.lognormal(0, sigma, shape) / np.sqrt(np.expm1(sigma**2) * np.exp(sigma**2))


def usually_better(sigma):
    """All plans but the best are better than it on most windows and much worse on a few: the worst case."""

    def draw(rng, m, w):
        noise = lognormal(rng, sigma, (m, w))
        noise[0] = rng.normal(0, 0.3, w)
        return noise

    return draw


def correlated(rng, m, w):
    """Windows differ more than plans do, and a plan's loss grows with how hard the window is for pruned models."""
    return (
        2 * rng.normal(size=(1, w)) + 0.5 * rng.normal(size=(m, 1)) * rng.normal(size=(1, w))
        + 0.3 * rng.normal(size=(m, w))
    )  # fmt: skip


POPULATIONS = {
    "normal": lambda rng, m, w: rng.normal(size=(m, w)),
    "heavy-tailed": lambda rng, m, w: rng.standard_t(3, size=(m, w)),
    "correlated": correlated,
    "skewed": lambda rng, m, w: lognormal(rng, 1.0, (m, w)),
    "usually better 0.5": usually_better(0.5),
    "usually better 1": usually_better(1.0),
}


def share_of_errors(draw, m, w, rounds, best=1, keep=1, gap=0.02):
    """How often one of the best plans, which are better by very little, is dropped."""
    rng, errors = np.random.default_rng(0), 0
    for _ in range(rounds):
        losses = draw(rng, m, w)
        losses = losses - losses.mean(axis=1, keepdims=True)  # now every plan's exact mean is 0
        losses[best:] += gap
        errors += not set(singles(best)) <= set(race(losses, keep).ranking.scores.measured())
    return errors / rounds


def most(rounds):
    """What a share with expectation `ALPHA` hardly ever exceeds: 3 standard errors."""
    return ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / rounds)


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_best_plan_is_rarely_dropped(population):
    assert share_of_errors(POPULATIONS[population], 15, 32, 2000) <= most(2000)


def unless(quick, *cases):
    """Cases, all but one of which are only run among the slow tests."""
    return [case if case == quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("plans", unless(5, 5, 10, 30))
@pytest.mark.parametrize("windows", unless(8, 8, 16, 32, 64))
@pytest.mark.parametrize("population", POPULATIONS)
def test_the_best_plan_is_rarely_dropped_whatever_the_numbers(population, windows, plans):
    assert share_of_errors(POPULATIONS[population], plans, windows, 3000) <= most(3000)


@pytest.mark.parametrize("population", ["normal", "skewed", "usually better 1"])
def test_several_best_plans_are_rarely_dropped(population):
    assert share_of_errors(POPULATIONS[population], 15, 32, 1000, best=3, keep=3) <= most(1000)


def test_the_correction_counts_every_pair_that_could_lose_a_best_plan():
    fields = [np.arange(10), np.arange(6)]
    assert racing._pairs(fields, 1) == 9 + 5
    for keep in (1, 2, 5):  # the best, and every plan behind them
        assert racing._pairs(fields, keep) == sum(a < b for n in (10, 6) for a in range(keep) for b in range(n))
    assert racing._Race(make_space(10, 1, num_windows=32, racing=ALPHA), singles(10), 1).level == ALPHA / (9 * 3)


def test_a_single_test_is_the_paired_t_test(monkeypatch):
    """For a population that is large against the sample, and without the guard."""
    monkeypatch.setattr(racing, "GUARD_QUANTILE", 0.0)
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(40, 12)) + np.linspace(0, 3, 40)[:, None]
    leader = losses.mean(axis=1).argmin()
    p = ttest_rel(losses, losses[[leader]], axis=1, alternative="greater").pvalue
    for level in (0.2, 0.01, 1e-4):
        worse = racing.beaten(losses, 1, level, 10**9)
        assert 0 < worse.sum() < 40
        np.testing.assert_array_equal(worse, np.nan_to_num(p, nan=1.0) < level)


def test_the_more_of_all_windows_were_seen_the_surer_it_is():
    losses = np.random.default_rng(0).normal(size=(20, 16)) + np.linspace(0, 1.5, 20)[:, None]
    counts = [int(racing.beaten(losses, 1, 0.01, w).sum()) for w in (10**9, 32, 20, 17)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_without_the_correction_for_many_comparisons_the_best_is_often_dropped(monkeypatch):
    """And so would be seen by these simulations."""
    monkeypatch.setattr(racing, "_pairs", lambda fields, keep: 0)
    monkeypatch.setattr(racing, "GUARD_QUANTILE", 0.0)
    assert share_of_errors(POPULATIONS["normal"], 15, 32, 300) > 3 * most(300)


def test_a_plain_t_test_often_drops_the_best_where_losses_are_skewed(monkeypatch):
    """Which is what the guard on the standard deviation is there for."""
    monkeypatch.setattr(racing, "GUARD_QUANTILE", 0.0)
    assert share_of_errors(POPULATIONS["usually better 0.5"], 15, 32, 300) > 1.5 * most(300)


MEASURED = np.array([
    0.000, 0.014, 0.026, 0.026, 0.030, 0.031, 0.037, 0.039, 0.070, 0.071, 0.089, 0.105, 0.114, 0.126, 0.132, 0.152,
    0.158, 0.176, 0.223, 0.223, 0.246, 0.283, 0.514, 0.684, 0.740, 1.276, 1.993, 2.432, 3.321, 7.582,
])  # fmt: skip
"""Nats by which the loss of SmolLM2-135M without each block exceeds that without the best, sorted, on 64 windows of
128 tokens. Between windows the differences have standard deviations of 0.1, or a quarter of the mean if larger."""


@pytest.mark.parametrize(("windows", "at_most"), [(16, 0.8), (32, 0.6), (64, 0.45), (128, 0.33)])
def test_on_a_realistic_spread_it_saves_work(windows, at_most):
    rng, rounds = np.random.default_rng(0), 50
    spread = np.maximum(0.1 / np.sqrt(2), MEASURED / 4)[:, None]
    shares = []
    for _ in range(rounds):
        losses = rng.normal(size=(1, windows)) + MEASURED[:, None] + spread * rng.normal(size=(30, windows))
        raced = race(losses)
        assert raced.ranking.order[0] == singles(30)[losses.mean(axis=1).argmin()]
        shares.append(raced.share)
    assert np.mean(shares) < at_most


def spread_losses(m=8, w=16, seed=0):
    """Plans so different that all but the first are dropped at the first look, unless something is in the way."""
    return np.arange(m)[:, None] * 5.0 + np.random.default_rng(seed).normal(size=(m, w)) * 0.1


def test_looks_double_up_to_half_of_all():
    assert [looks(w) for w in (1, 7, 8, 15, 16, 40, 64)] == [(), (), (4,), (4,), (4, 8), (4, 8, 16), (4, 8, 16, 32)]


@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_without_racing_or_windows_enough_it_is_one_ask(alpha):
    losses = spread_losses(w=16 if alpha is None else 7)
    raced = race(losses, alpha=alpha)
    assert raced.asks == [Ask(singles(8))]
    np.testing.assert_allclose(raced.ranking.scores.first, losses.mean(axis=1))
    np.testing.assert_array_equal(raced.ranking.scores.per_window[:, 0], losses)
    assert raced.ranking.order == singles(8)


def test_the_survivor_is_measured_in_full_and_the_rest_only_as_far_as_it_took():
    losses = spread_losses()[::-1]
    raced = race(losses)
    plans = singles(8)
    assert raced.asks == [Ask(plans, (0, 1, 2, 3)), Ask(plans[-1:])]
    assert raced.ranking.order == plans[::-1]
    assert raced.ranking.scores.plans == plans
    assert raced.ranking.scores.measured() == {plans[-1]: losses[-1].mean()}
    np.testing.assert_array_equal(raced.ranking.scores.per_window[0, 0], [*losses[0, :4], *[np.nan] * 12])
    assert raced.share == (7 * 4 + 16) / (8 * 16)


def test_those_dropped_later_rank_before_those_dropped_earlier():
    losses = spread_losses(m=12, w=32)
    losses[1:6] = losses[0] + np.random.default_rng(1).normal(0.15, 0.1, (5, 32))  # close, told apart at a later look
    raced = race(losses)
    last = {plan: max(i for i, ask in enumerate(raced.asks) if plan in ask.plans) for plan in singles(12)}
    assert len(set(last.values())) > 2
    assert [last[plan] for plan in raced.ranking.order] == sorted(last.values(), reverse=True)


def test_identical_plans_and_constant_differences_drop_nothing():
    base = np.random.default_rng(0).normal(size=(1, 16))
    same = race(np.repeat(base, 8, axis=0))
    assert len(same.ranking.scores.measured()) == 8
    assert same.ranking.order == singles(8)
    shifted = race(np.repeat(base * 0, 8, axis=0) + np.arange(8)[:, None])
    assert len(shifted.ranking.scores.measured()) == 8


def test_twins_of_the_best_stay_with_it():
    losses = spread_losses(m=9)
    losses[4] = losses[0]
    assert set(race(losses).ranking.scores.measured()) == {singles(9)[0], singles(9)[4]}


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_plans_are_dropped_when_another_is_sound(broken):
    losses = spread_losses()
    losses[0, 2] = broken
    raced = race(losses)
    assert all(singles(8)[0] not in ask.plans for ask in raced.asks[1:])
    assert raced.ranking.order[-1] == singles(8)[0]
    assert raced.ranking.order[0] == singles(8)[1]


def test_broken_plans_stay_while_fewer_than_wanted_are_sound():
    losses = spread_losses()
    losses[:6, 1] = np.nan
    assert len(race(losses, keep=3).ranking.scores.measured()) == 8
    assert set(race(losses, keep=2).ranking.scores.measured()) == set(singles(8)[6:])
    losses[:] = np.nan
    assert race(losses).ranking.scores.measured() == dict.fromkeys(singles(8), np.inf)


@pytest.mark.parametrize("keep", [1, 2, 5, 8])
def test_as_many_as_wanted_are_kept(keep):
    raced = race(spread_losses(), keep=keep)
    assert tuple(raced.ranking.scores.measured()) == singles(8)[:keep]


def test_plans_of_different_sizes_do_not_compete():
    plans = (*singles(6), *(PrunePlan.of([Unit(0), Unit(i)]) for i in range(1, 7)))
    raced = race(np.concatenate([spread_losses(6), 100 + spread_losses(6)]), plans=plans)
    assert tuple(raced.ranking.scores.measured()) == (plans[0], plans[6])


def test_few_plans_do_not_race():
    """The spread of the others guards the test: it takes some."""
    assert race(spread_losses(m=racing.LEAST_OTHERS)).asks == [Ask(singles(racing.LEAST_OTHERS))]
    assert len(race(spread_losses(m=racing.LEAST_OTHERS + 1)).asks) == 2


def not_by_window(ask, plans, losses):
    """Of an objective with inputs of its own."""
    scores = answer(ask, plans, losses)
    return dataclasses.replace(scores, per_window=np.full_like(scores.per_window, np.nan))


def no_mean_of_windows(ask, plans, losses):
    """Of an objective whose items are not its rows."""
    scores = answer(ask, plans, losses)
    return dataclasses.replace(scores, values=scores.values * 2)


@pytest.mark.parametrize("answered", [not_by_window, no_mean_of_windows])
def test_objectives_that_are_no_means_over_windows_are_measured_in_full(answered):
    raced = race(spread_losses(), answered=answered)
    assert raced.asks == [Ask(singles(8), (0, 1, 2, 3)), Ask(singles(8))]
    assert len(raced.ranking.scores.measured()) == 8


@pytest.mark.parametrize(("stop_at", "known"), [(0, 0), (1, 1)])
def test_stopped_it_tells_all_that_was_measured_in_full(stop_at, known):
    with pytest.raises(SearchStopped, match="limit") as stopped:
        race(spread_losses(), stop_at=stop_at)
    scores = stopped.value.scores
    assert scores.plans == singles(8)
    assert len(scores.measured()) == known
    assert np.isfinite(scores.per_window[:, 0, :4]).all()


def test_a_race_needs_distinct_plans_and_a_place():
    space = make_space(4, 1, racing=ALPHA)
    with pytest.raises(ValueError, match="Plan 1 is in the race twice"):
        next(rank(space, (*singles(3), singles(2)[1])))
    with pytest.raises(ValueError, match="keep 1 plan or more, not 0"):
        next(rank(space, singles(3), keep=0))


BOUND = 0.5
"""What a second number may be on average."""
PRICE = 20.0
"""What missing it by one is charged."""


def with_bound(seconds):
    """Answers that charge for a mean of the second number, (plans, windows), beyond the bound."""

    def charged(ask, plans, losses):
        plain = answer(ask, plans, losses)
        windows = list(range(losses.shape[1]) if ask.windows is None else ask.windows)
        charges = np.full((len(ask.plans), 1, losses.shape[1]), np.nan)
        charges[:, 0, windows] = PRICE * (seconds[[plans.index(plan) for plan in ask.plans]][:, windows] - BOUND)
        missed = charges[:, :, windows].mean(axis=2) > 0
        plain.values[missed[:, 0]] += charges[:, :, windows].mean(axis=2)[missed[:, 0]]
        plain.per_window[missed[:, 0]] += charges[missed[:, 0]]
        return Scores(ask.plans, plain.values, plain.per_window, charges)

    return charged


def bounded_race(rng, missing, gap=0.06, told=lambda scores: scores):
    """A race where some plans, whose loss is lower, miss the bound by this gap; plan 0 is the best that keeps to it."""
    losses, seconds = rng.normal(0, 0.1, (15, 32)), np.zeros((15, 32))
    losses += 1.0 - losses.mean(axis=1, keepdims=True)
    losses[0] -= 0.5
    losses[missing] -= 1.0
    for plan in missing:
        drawn = rng.normal(0, 0.3, 32)
        seconds[plan] = drawn + BOUND + gap - drawn.mean()
    answered = with_bound(seconds)
    return race(losses, answered=lambda *asked: told(answered(*asked)))


def untold(scores):
    """The same without the charges by window."""
    return Scores(scores.plans, scores.values, scores.per_window)


def share_lost(missing, rounds, **options):
    rng = np.random.default_rng(0)
    raced = (bounded_race(rng, missing, **options) for _ in range(rounds))
    return np.mean([one.ranking.order[0] != PrunePlan((Unit(0),)) for one in raced])


@pytest.mark.parametrize("missing", [[1], [1, 2, 3], list(range(1, 15))], ids=len)
def test_a_plan_that_keeps_to_a_bound_is_rarely_lost_to_those_that_just_miss_it(missing):
    """On a few windows they seem to keep to it, and are better then."""
    assert share_lost(missing, 200) <= most(200)


def test_without_the_charges_by_window_it_often_would_be():
    assert share_lost([1], 100, told=untold) > 0.1


def test_a_bound_does_not_turn_racing_off():
    """Plans that miss it by far are dropped at the first look."""
    raced = bounded_race(np.random.default_rng(0), [1, 2, 3], gap=1.0)
    assert raced.share < 0.5
    assert raced.ranking.order[0] == PrunePlan((Unit(0),))
