"""The posterior over plans against what is known, the final against greedy's plan, and what a search looks at when."""

import numpy as np
import pytest

from searcher.contracts.games import additive_game, interacting_game, make_space, noisy_game, play
from searcher.contracts.plan import PrunePlan
from searcher.contracts.strategy import Scores
from strategies.bayesian import Bayesian
from strategies.evopress import EvoPress
from strategies.final import Final, final
from strategies.greedy import Greedy
from strategies.looks import Looks
from strategies.posterior import Surrogate

WINDOWS = 32


def answered(search, scores, num_windows=WINDOWS):
    """Answer everything a search of looks asks from `scores(plan)`, float64 (windows,)."""
    asks = []
    try:
        ask = next(search)
        while True:
            asks.append(ask)
            windows = list(range(num_windows) if ask.windows is None else ask.windows)
            by_window = np.full((len(ask.plans), 1, num_windows), np.nan)
            for row, plan in zip(by_window, ask.plans, strict=True):
                row[0, windows] = scores(plan)[windows]
            ask = search.send(Scores(ask.plans, np.nanmean(by_window, axis=2), by_window))
    except StopIteration:
        return asks


def seen(space, scores, looks):
    """Looks at lists of plans, each on its own windows."""
    found = Looks(space)
    for plans, windows in looks:
        answered(found.look(plans, windows), scores)
    return found


def windowed(game, noise=0.0, spread=2.0, seed=0):
    """Scores by window: what windows do to all plans is far more than plans differ by; and noise of each plan's own."""
    common = np.random.default_rng(seed).normal(0, spread, WINDOWS)

    def scores(plan):
        rng = np.random.default_rng([seed, *(unit.block for unit in plan.removed)])
        return game(plan) + common + rng.normal(0, noise, WINDOWS)

    return scores


def test_plans_seen_on_different_windows_are_compared_by_what_the_looks_share():
    space, game = make_space(10, 4, num_windows=WINDOWS), additive_game(3, 10)
    rng = np.random.default_rng(0)
    looks = [([space.sample(rng) for _ in range(8)], range(4 * i, 4 * i + 4)) for i in range(8)]
    surrogate = Surrogate(seen(space, windowed(game), looks))
    new = [space.sample(rng) for _ in range(50)]
    expected = surrogate.posterior(4).expected(new)
    truth = np.array([game(plan) for plan in new])
    assert np.corrcoef(expected, truth)[0, 1] > 0.99
    # the plain means of plans that were seen on different windows say next to nothing
    plans = [plan for plans, _ in looks for plan in plans]
    plain = [windowed(game)(plan)[list(windows)].mean() for plans, windows in looks for plan in plans]
    assert np.corrcoef(plain, [game(plan) for plan in plans])[0, 1] < 0.7


def test_draws_are_around_what_is_expected_and_nearer_the_more_was_seen():
    space, game = make_space(10, 4, num_windows=WINDOWS), interacting_game(1, 10, 0.05)
    rng = np.random.default_rng(1)
    plans = list(dict.fromkeys(space.sample(rng) for _ in range(30)))
    spreads = []
    for count in (2, 16):
        surrogate = Surrogate(seen(space, windowed(game, noise=0.5), [(plans, range(count))]))
        posterior = surrogate.posterior(4)
        drawn = []
        for _ in range(400):
            model, own = posterior.draw(rng)
            removed = np.array([[float(u in p.removed) for u in space.units] for p in plans])
            drawn.append(model.predict(removed) + [own[p] for p in plans])
        drawn = np.array(drawn) - np.mean(drawn, axis=1, keepdims=True)
        expected = posterior.expected(plans)
        spreads.append(drawn.std(axis=0).mean())
        error = drawn.mean(axis=0) - (expected - expected.mean())
        assert np.abs(error).max() < 5 * spreads[-1] / 20  # of the mean of 400 draws
    assert spreads[1] < 0.7 * spreads[0]


def test_noise_is_that_between_windows_and_no_plan_that_breaks_counts():
    space = make_space(10, 4, num_windows=WINDOWS)
    rng = np.random.default_rng(2)
    plans = list(dict.fromkeys(space.sample(rng) for _ in range(40)))
    inner = windowed(additive_game(0, 10), noise=0.3)

    def scores(plan):
        return np.full(WINDOWS, np.inf) if plan == plans[0] else inner(plan)

    assert seen(space, scores, [(plans, range(16))]).noise() ** 0.5 == pytest.approx(0.3, rel=0.15)


def test_what_was_seen_on_the_same_windows_is_not_asked_again():
    space = make_space(6, 2, num_windows=WINDOWS)
    looks = Looks(space)
    plans = list(space.plans(2))
    scores = windowed(additive_game(0, 6))
    assert answered(looks.look(plans[:4], range(4)), scores)[0].plans == tuple(plans[:4])
    assert answered(looks.look(plans[:5], range(4)), scores)[0].plans == (plans[4],)
    assert answered(looks.look(plans[:5], range(4)), scores) == []
    assert looks.measured == 20


def test_the_choice_of_a_final_is_seldom_worse_than_the_plan_that_grew():
    """Twelve plans whose truths differ by about the noise of the final, the first of them greedy's: in no more than 5% of
    the games is the choice worse than that by more than two standard errors of a difference on all windows."""
    space, rng = make_space(12, 5, num_windows=WINDOWS), np.random.default_rng(3)
    noise, games, far_worse, gains = 0.1, 60, 0, []
    margin = 2 * noise * (2 / WINDOWS) ** 0.5
    for _ in range(games):
        plans = list(dict.fromkeys(space.sample(rng) for _ in range(14)))[:12]
        truth = dict(zip(plans, rng.normal(0, 0.03, 12), strict=True))
        own = {plan: rng.normal(0, noise, WINDOWS) for plan in plans}
        scores = {plan: truth[plan] + own[plan] for plan in plans}
        looks = Looks(space)
        answered(looks.look(plans, range(4)), scores.__getitem__)
        last = Final(tuple(range(WINDOWS // 2, WINDOWS)))
        answered(final(last, looks, Surrogate(looks), {5: plans}), scores.__getitem__)
        chosen = last.order[5][0]
        gains.append(truth[plans[0]] - truth[chosen])
        far_worse += gains[-1] < -margin
        assert len(last.in_full[5]) == 3
    assert far_worse <= 0.05 * games
    assert np.mean(gains) > 0.015  # and by half of what could be had better on average


def test_what_finalists_have_in_common_is_told_or_that_there_is_nothing():
    plans = [PrunePlan.parse(text) for text in ("16-17", "13-14", "14,16")]
    apart = Final((), {2: plans}, {2: np.zeros((3, 8))}).notes()
    assert apart["summary"][0].endswith("ahead of 13-14 and 14,16; no removal is common to them.")
    alike = Final((), {2: plans}, {2: np.zeros((3, 8))[:1].repeat(2, axis=0)})
    alike.order[2] = [plans[2], PrunePlan.parse("14,17")]
    assert alike.notes()["summary"][0].endswith("ahead of 14,17; all remove 14.")
    assert Final((), {2: plans}, {2: np.zeros((1, 8))}).notes()["summary"] == []


def asks_of(strategy, space, game, **limits):
    return play(strategy, space, game, **limits)


def test_plans_see_few_windows_and_the_final_has_windows_that_no_plan_was_chosen_on():
    space = make_space(12, 5, num_windows=WINDOWS)
    played = asks_of(Bayesian(), space, noisy_game(interacting_game(0, 12, 0.1), 0, WINDOWS, 0.1))
    unseen = set(range(WINDOWS // 2, WINDOWS))
    begins = next(i for i, ask in enumerate(played.asks) if ask.windows is None or set(ask.windows) & unseen)
    before, after = played.asks[:begins], played.asks[begins:]
    assert all(len(ask.windows) == 4 for ask in before)
    assert {window for ask in before for window in ask.windows} == set(range(WINDOWS // 2))
    assert all(set(ask.windows) <= unseen for ask in after[:-1])
    assert len(after[0].plans) == 12
    assert after[-1].windows is None
    assert len(after[-1].plans) == 3
    notes = played.outcome.notes["final"]["sizes"]["5"]
    assert notes["plans"][0] == str(played.outcome.plans[0])
    assert 1 / 3 <= notes["ahead"] <= 1


def test_with_noise_it_is_better_than_greedy_that_spends_as_much():
    """On average over games: greedy on six windows, judged by the truth."""
    theirs, ours = [], []
    for seed in range(4):
        game = interacting_game(seed, 12, 0.1)
        space = make_space(12, 6, num_windows=WINDOWS, seed=seed)
        few = make_space(12, 6, num_windows=6, seed=seed)
        greedy = play(Greedy(), few, noisy_game(game, seed, 6, 0.6))
        cost = greedy.evaluations(few) * 6 / WINDOWS
        found = play(Bayesian(), space, noisy_game(game, seed, WINDOWS, 0.6), max_evaluations=cost)
        assert found.evaluations(space) <= cost
        theirs.append(game(greedy.outcome.plans[0]))
        ours.append(game(found.outcome.plans[0]))
    assert np.mean(ours) < np.mean(theirs)


def test_evopress_compares_every_generation_on_windows_drawn_anew_and_the_parent_with_its_survivors():
    space = make_space(12, 5, num_windows=WINDOWS)
    strategy = EvoPress(generations=12, offspring=10, beginnings=6, first=2, last=8)
    played = asks_of(strategy, space, noisy_game(additive_game(0, 12), 0, WINDOWS, 0.05))
    beginning, *generations = played.asks
    assert len(beginning.plans) <= 6
    assert len(generations) == 24
    assert len({ask.windows for ask in generations}) > 20
    for children, meeting in zip(generations[::2], generations[1::2], strict=True):
        assert len(children.windows) == 2
        assert len(meeting.windows) == 8
        assert len(meeting.plans) <= 3
    assert (
        min(map(additive_game(0, 12), space.plans(5)))
        <= additive_game(0, 12)(played.outcome.plans[0])
        < 1.2 * min(map(additive_game(0, 12), space.plans(5)))
    )
    assert all(isinstance(plan, PrunePlan) for plan in played.outcome.plans)
