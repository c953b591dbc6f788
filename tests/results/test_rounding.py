"""What is taken for rounding: by dtype, number of windows and kind of value; and what is said of it."""

import math

import numpy as np
import pytest
from finished import changed, finish

from objectives.accuracy import Accuracy
from objectives.divergence import KL
from objectives.loss import Loss, Perplexity
from objectives.sizes import Parameters
from results.comparison import Comparison
from results.rounding import ROUNDOFF, is_rounding, rounding_bound
from searcher.contracts.objective import Objective

LOSSES = np.random.default_rng(0).normal(4.0, 0.5, 8)


class Points(Objective):
    unit = "points"

    def measure(self, candidate):
        raise NotImplementedError


def test_the_bound_follows_the_unit_roundoff_and_falls_with_the_windows_to_what_they_share():
    assert 0 < rounding_bound("float32", 8) < rounding_bound("bfloat16", 8) / 2**12
    assert rounding_bound("float16", 8) == pytest.approx(rounding_bound("bfloat16", 8) / 8)
    falling = [rounding_bound("bfloat16", windows) for windows in (1, 4, 8, 32, 10**9)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] > ROUNDOFF["bfloat16"]
    assert 0.005 < rounding_bound("bfloat16", 8) < 0.02  # three times what was measured, 0.4 to 0.5% of perplexity


@pytest.mark.parametrize("objective", [Perplexity(), Loss(), KL()], ids=["perplexity", "loss", "kl"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_difference_of_nats_is_rounding_up_to_the_bound(objective, dtype):
    bound = rounding_bound(dtype, len(LOSSES))
    for times, expected in ((0.0, True), (-0.99, True), (0.99, True), (1.01, False), (-1.01, False)):
        assert is_rounding(objective, dtype, LOSSES + times * bound, LOSSES) is expected


def test_the_bound_of_other_values_is_relative():
    bound = rounding_bound("bfloat16", 8)
    for scale in (1e-3, 1.0, 1e6):
        values = np.full(8, scale)
        assert is_rounding(Points(), "bfloat16", values * (1 + 0.9 * bound), values)
        assert not is_rounding(Points(), "bfloat16", values * (1 + 1.2 * bound), values)


@pytest.mark.parametrize(("dtype", "items", "most"), [("float32", 100, 1), ("bfloat16", 100, 4), ("bfloat16", 20, 1)])
def test_a_few_items_are_turned_over_by_rounding(dtype, items, most):
    other = np.zeros(items)
    for more in range(1, 8):
        plan = np.repeat([1.0, 0.0], [more, items - more])
        assert is_rounding(Accuracy("items.jsonl"), dtype, plan, other) is (more <= most)


def test_sizes_are_not_rounded_nor_is_a_broken_plan():
    assert not is_rounding(Parameters(), "bfloat16", np.array([1e8 + 1]), np.array([1e8]))
    assert not is_rounding(Loss(), "bfloat16", np.array([math.inf, 1.0]), np.array([1.0, 1.0]))


@pytest.fixture(scope="module")
def pair(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    options = {"strategy": "influence", "budget": 3}
    return [finish(tiny, folder, name, keep=keep, **options) for name, keep in (("a", "4"), ("b", "0,1"))]


@pytest.mark.parametrize(("times", "better"), [(0.5, False), (1.5, True)])
def test_a_plan_is_called_better_by_more_than_rounding_only(pair, tmp_path, times, better):
    """The second run's plan is put below the first's by a multiple of the bound of bfloat16."""
    first, second = pair
    assert first.best.plan != second.best.plan
    bound = rounding_bound("bfloat16", first.record["identity"]["windows"])
    losses = first.measurements.rows("search", first.best.plan, "perplexity") - times * bound

    def below(line):
        if (line["plan"], line["split"]) == (str(second.best.plan), "search"):
            line["values"]["perplexity"] = losses[line["rows"]].tolist()

    def half(record):
        record["identity"]["dtype"] = "bfloat16"

    runs = [changed(first, tmp_path / "a", half), changed(second, tmp_path / "b", half, below)]
    found = Comparison(runs)
    (size,) = [size for size in found.sections[0].sizes if size.size == 3]
    entry = size.entries[1]
    assert entry.search_gap.value == pytest.approx(math.expm1(-times * bound))
    assert (entry.better, entry.rounded, size.best is entry) == (better, not better, better)
    if better:
        assert "is beaten on the search windows by" in size.verdict
    else:
        assert (
            "holds: no run found a better plan for the search windows by more than rounding in bfloat16" in size.verdict
        )
    document = found.document()["sections"][0]["sizes"][-1]
    assert document["entries"][1]["within_rounding"] is not better
