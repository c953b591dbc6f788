"""Scores over several texts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.loss import Loss, Perplexity
from objectives.sizes import Parameters
from searcher.contracts.games import make_space
from searcher.contracts.plan import PrunePlan
from searcher.contracts.racing import rank
from searcher.contracts.strategy import Scores
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.options import make_config
from searcher.search.goals import make_goals
from searcher.search.robust import check_robust

TEXTS = (1, 0, 0, 1, 0, 1, 1, 0)
DENSE = np.array([5.0, 1.0, 2.0, 6.0, 1.5, 4.0, 5.0, 1.0])
NUMBERS = st.lists(st.floats(0, 10), min_size=8, max_size=8).map(np.array)
OBJECTIVES = {"perplexity": Perplexity(), "parameters": Parameters()}
TWO = {"budget": 2, "data": ("a.txt", "b.txt"), "objective": tuple(OBJECTIVES)}


def goals(**fields):
    dense = {"perplexity": DENSE, "parameters": np.array([200.0])}
    return make_goals(make_config(RunConfig, {**TWO, "robust": "worst", **fields}), OBJECTIVES, dense, TEXTS)


def rows(numbers):
    return {"perplexity": numbers, "parameters": np.array([150.0])}


@given(NUMBERS, st.sets(st.integers(0, 7), min_size=1))
def test_the_worst_text_is_the_one_with_the_largest_rise(numbers, windows):
    """By the plain definition: the mean over a text less the dense model's, on the windows asked about."""
    asked = sorted(windows)
    by_text = {text: [i for i in asked if TEXTS[i] == text] for text in (0, 1)}
    rises = [np.mean(numbers[own]) - np.mean(DENSE[own]) for own in by_text.values() if own]
    values, by_window = goals().scores(rows(numbers), asked, full_size=True)
    assert values[0] == pytest.approx(max(rises), abs=1e-12)
    assert values[1] == 150.0  # what reads no text has none that is worst
    assert np.isnan(by_window).all()
    if len(asked) == 8:
        assert goals().score("perplexity", rows(numbers)) == values[0]


def test_the_dense_model_scores_nothing_and_a_broken_plan_ranks_last():
    assert goals().scores(rows(DENSE), range(8), True)[0][0] == 0.0
    for broken in (math.inf, math.nan):
        numbers = np.where(np.arange(8) == 1, broken, DENSE)
        assert goals().scores(rows(numbers), range(8), True)[0][0] == math.inf


def test_hard_texts_do_not_drown_the_others():
    """The plan that costs most on the easy text is the worse one, though the other loss is higher throughout."""
    on_easy, on_hard = (DENSE + cost * (np.array(TEXTS) == text) for text, cost in ((0, 2.0), (1, 1.0)))
    scores = [goals().scores(rows(numbers), range(8), False)[0][0] for numbers in (on_easy, on_hard)]
    assert scores == pytest.approx([2.0, 1.0])


def test_a_weighted_sum_takes_the_worst_text_of_each_objective():
    weighed = goals(weight={"perplexity": 1.0, "parameters": 0.5})
    ((value,), by_window) = weighed.scores(rows(DENSE + 1.0), range(8), full_size=True)
    assert value == pytest.approx(1.0 / DENSE.mean() + 0.5 * 150 / 200)
    assert np.isnan(by_window).all()  # so that nothing races by it


def test_bounds_are_still_on_the_value_over_all_windows():
    bounded = goals(at_most={"perplexity": "20"})
    kept, charged = (bounded.scores(rows(DENSE + 1), range(8), full)[0][0] for full in (False, True))
    assert kept == pytest.approx(1.0)
    assert charged > kept
    assert bounded.excess(rows(DENSE + 1)) == pytest.approx((math.exp(DENSE.mean() + 1) - 20) / 20)


def test_a_race_measures_in_full_what_is_no_mean_over_windows():
    found, space = goals(), make_space(6, 1, num_windows=8, racing=0.05)
    plans = tuple(PrunePlan.of([unit]) for unit in space.units)
    rng = np.random.default_rng(0)
    numbers = {plan: DENSE + i + rng.normal(0, 0.1, 8) for i, plan in enumerate(plans)}
    race, asked = rank(space, plans), []
    ask = next(race)
    while True:
        asked.append(ask)
        windows = list(range(8) if ask.windows is None else ask.windows)
        values, per_window = np.empty((len(ask.plans), 2)), np.full((len(ask.plans), 2, 8), np.nan)
        for i, plan in enumerate(ask.plans):
            values[i], per_window[i][:, windows] = found.scores(rows(numbers[plan]), windows, True)
        try:
            ask = race.send(Scores(ask.plans, values, per_window))
        except StopIteration as stop:
            ranking = stop.value
            break
    assert asked[-1].windows is None
    assert asked[-1].plans == plans  # none was dropped
    assert not np.isnan(ranking.scores.values).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "a.txt"}, "--robust worst is for several texts, but there is one"),
        ({"data": None}, "--robust worst is for several texts, but there is one"),
        ({"racing": 0.05}, "--racing drops plans by their mean over windows"),
        ({"robust": "regret"}, "--robust: 'regret' does not fit"),
        ({"data": ()}, "--data"),
    ],
)
def test_what_would_change_nothing_or_is_unknown_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        make_config(RunConfig, {**TWO, "robust": "worst", **fields})


def test_an_objective_that_reads_no_text_has_no_worst_one():
    config = make_config(RunConfig, {**TWO, "robust": "worst", "objective": "parameters"})
    with pytest.raises(UsageError, match="is for what is measured on the texts, but parameters is not"):
        check_robust(config, {"parameters": Parameters()})
    check_robust(make_config(RunConfig, {**TWO, "robust": "worst", "objective": "loss"}), {"loss": Loss()})


@pytest.mark.parametrize(("data", "written"), [(None, None), ("a.txt", "a.txt"), (["a.txt"], "a.txt")])
def test_one_text_is_written_as_it_was_before_there_could_be_several(data, written):
    config = make_config(RunConfig, {"budget": 1, "data": data})
    assert config.data == (None if data is None else ("a.txt",))
    assert config.model_dump(mode="json")["data"] == written
    assert make_config(RunConfig, config.model_dump(mode="json")) == config
    several = make_config(RunConfig, {"budget": 1, "data": ["a.txt", "c4"]}).model_dump(mode="json")
    assert several["data"] == ["a.txt", "c4"]
