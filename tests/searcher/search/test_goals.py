"""From measured values to what a strategy minimises."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.loss import Loss, Perplexity
from objectives.sizes import Parameters
from searcher.contracts.objective import Objective
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.options import make_config
from searcher.search.goals import Bound, Goals, check_bounds, make_goals


class Right(Objective):
    """Something where higher is better, with items of its own."""

    unit = "share"
    lower_is_better = False
    reads = "inputs"

    def measure(self, candidate):
        return np.zeros(1)


OBJECTIVES = {"perplexity": Perplexity(), "parameters": Parameters(), "right": Right()}
DENSE = {"perplexity": np.array([2.0, 4.0, 3.0]), "parameters": np.array([200.0]), "right": np.array([1.0, 0.0])}
ROWS = {"perplexity": np.array([3.0, 5.0, 4.0]), "parameters": np.array([150.0]), "right": np.array([0.0, 0.0])}
ALL = (0, 1, 2)


def goals(**fields):
    options = {"budget": 2, "objective": ("perplexity", "parameters", "right"), **fields}
    return make_goals(make_config(RunConfig, options), OBJECTIVES, DENSE)


def test_each_by_itself_lower_is_better():
    values, by_window = goals().scores(ROWS, ALL, full_size=True)
    np.testing.assert_array_equal(values, [4.0, 150.0, 0.0])
    np.testing.assert_array_equal(by_window, [[3.0, 5.0, 4.0], [math.nan] * 3, [math.nan] * 3])
    values, by_window = goals().scores(ROWS, (2, 0), full_size=True)
    assert values[0] == 3.5
    np.testing.assert_array_equal(by_window[0], [4.0, 3.0])


def test_a_weighted_sum_is_relative_to_the_dense_model():
    weighed = goals(weight={"perplexity": 1.0, "parameters": 0.5, "right": 0.25})
    assert weighed.columns == 1
    ((value,), (by_window,)) = weighed.scores(ROWS, ALL, full_size=True)
    assert value == pytest.approx(4 / 3 + 0.5 * 150 / 200 - 0.25 * 0.0 / 0.5)
    np.testing.assert_allclose(by_window.mean(), value)  # so that plans can race
    np.testing.assert_allclose(np.diff(by_window), [2 / 3, -1 / 3])
    ((alone,), _) = goals(weight={"parameters": 2.0}).scores(
        ROWS | {"perplexity": np.array([math.nan] * 3)}, ALL, full_size=False
    )
    assert alone == 1.5  # what has no weight does not count


@given(st.floats(0, 5), st.floats(0, 5))
def test_weights_are_additive(one, other):
    assume_positive = {label: w for label, w in (("perplexity", one), ("parameters", other)) if w > 1e-6}
    if len(assume_positive) == 2:
        parts = [goals(weight={label: w}).scores(ROWS, ALL, False)[0][0] for label, w in assume_positive.items()]
        assert goals(weight=assume_positive).scores(ROWS, ALL, False)[0][0] == pytest.approx(sum(parts))


def test_a_plan_of_full_size_is_charged_for_missing_a_bound():
    bounded = goals(at_most={"parameters": "60%"}, at_least={"right": "0.25"})
    assert [str(bound) for bound in bounded.bounds] == ["--at-most parameters=60%", "--at-least right=0.25"]
    assert bounded.excess(ROWS) == pytest.approx(30 / 120 + 1.0)
    kept, _ = bounded.scores(ROWS, ALL, full_size=False)
    charged, by_window = bounded.scores(ROWS, ALL, full_size=True)
    np.testing.assert_array_equal(kept, [4.0, 150.0, 0.0])
    np.testing.assert_allclose((charged - kept) / [3.0, 200.0, 0.5], 10 * 1.25)
    assert by_window[0].mean() == pytest.approx(charged[0])
    assert bounded.missed(ROWS) == [
        "--at-most parameters=60% (it has 150)",
        "--at-least right=0.25 (it has 0)",
    ]
    fits = ROWS | {"parameters": np.array([120.0]), "right": np.array([1.0, 0.0])}
    assert bounded.excess(fits) == 0
    np.testing.assert_array_equal(*[bounded.scores(fits, ALL, full)[0] for full in (True, False)])


class Divergence(Loss):
    """Something that reads windows, beside the loss."""


BOUNDED = {"loss": Loss(), "kl": Divergence()}
LOSSES = {"loss": np.array([2.0, 2.0, 4.0, 4.0]), "kl": np.array([0.1, 0.3, 0.9, 1.1])}


def bounded(most="0.5"):
    config = make_config(RunConfig, {"budget": 2, "objective": ("loss", "kl"), "at_most": {"kl": most}})
    return make_goals(config, BOUNDED, {"loss": np.full(4, 2.0), "kl": np.full(4, 1.0)})


def seen(windows):
    """What is known of a plan that was measured on these windows alone."""
    return {name: np.where(np.isin(range(4), windows), numbers, np.nan) for name, numbers in LOSSES.items()}


@pytest.mark.parametrize(
    ("windows", "charged"),
    [((0, 1), 0.0), ((2, 3), 10 * (1.0 - 0.5) / 0.5), ((0, 2), 0.0), ((1, 2), 10 * 0.1 / 0.5), (ALL, None)],
)
def test_a_bound_is_held_against_the_windows_asked_about(windows, charged):
    """Not against those that were not measured, of which nothing is known."""
    if charged is None:
        windows, charged = (0, 1, 2, 3), 10 * 0.1 / 0.5
    for rows in (seen(windows), LOSSES):  # what else is known makes no difference
        values, by_window = bounded().scores(rows, windows, full_size=True)
        assert values[0] == pytest.approx(LOSSES["loss"][list(windows)].mean() + 2.0 * charged, rel=1e-6)
        np.testing.assert_allclose(by_window.mean(axis=1), values)


def test_charges_by_window_say_how_far_each_is_from_the_bound():
    charges = bounded().charges(seen((1, 2)), (1, 2), full_size=True)
    np.testing.assert_allclose(charges, [[10 * 2 * (0.3 - 0.5) / 0.5, 10 * 2 * (0.9 - 0.5) / 0.5]], rtol=1e-6)
    assert not bounded().charges(seen((1, 2)), (1, 2), full_size=False).any()
    assert goals(at_most={"parameters": "60%"}).charges(ROWS, ALL, True).shape == (0, 3)


def test_a_bound_on_what_is_no_mean_is_charged_alike_on_average():
    config = make_config(RunConfig, {"budget": 2, "objective": ("loss", "perplexity"), "at_most": {"perplexity": "10"}})
    numbers = np.array([2.0, 4.0])
    found = make_goals(config, {"loss": Loss(), "perplexity": Perplexity()}, {"loss": numbers, "perplexity": numbers})
    rows = {"loss": numbers, "perplexity": numbers}
    values, by_window = found.scores(rows, (0, 1), full_size=True)
    assert values[0] == pytest.approx(3.0 + 3.0 * 10 * (math.exp(3) - 10) / 10)
    assert by_window[0].mean() == pytest.approx(values[0])
    assert by_window[0][1] > by_window[0][0] + 2


def test_a_broken_plan_keeps_to_no_bound_and_ranks_last():
    broken = ROWS | {"perplexity": np.array([math.nan, 1.0, 1.0])}
    assert goals().scores(broken, ALL, full_size=True)[0][0] == math.inf
    assert Bound("x", "1", 1.0, upper=True).excess(math.nan) == math.inf
    assert goals(weight={"perplexity": 1.0}).scores(broken, ALL, full_size=True)[0][0] == math.inf


def test_bounds_on_the_wrong_side_are_refused():
    for name, flag in (("right", "at_most"), ("parameters", "at_least")):
        config = make_config(RunConfig, {"budget": 1, flag: {name: "0.5"}})
        with pytest.raises(UsageError, match="is better, so that this bounds nothing"):
            check_bounds(config, OBJECTIVES)


@pytest.mark.parametrize("text", ["", "-1", "60 %%", "lots", "1MM", "nan"])
def test_bounds_that_are_no_numbers_are_refused(text):
    with pytest.raises(UsageError, match="is not a number"):
        make_config(RunConfig, {"budget": 1, "at_most": {"kv-cache": text}})


@pytest.mark.parametrize("weight", [0, -1, math.inf, math.nan])
def test_weights_must_be_positive(weight):
    with pytest.raises(UsageError, match="is no weight"):
        make_config(RunConfig, {"budget": 1, "weight": {"perplexity": weight}})


def test_one_objective_twice_under_labels():
    config = make_config(RunConfig, {"budget": 1, "objective": ("a=loss", "loss"), "at_most": {"kl": "1", "a": "9"}})
    assert config.goals == ("a", "loss")
    assert {label: name for label, (name, _) in config.objective_specs.items()} == {
        "a": "loss",
        "loss": "loss",
        "kl": "kl",
    }
    with pytest.raises(UsageError, match="named twice"):
        make_config(RunConfig, {"budget": 1, "objective": ("loss", "loss=perplexity")})


def test_default_goals_are_one():
    assert Goals({"loss": Loss()}, ("loss",)).columns == 1
