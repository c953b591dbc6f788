"""Where hypervolumes end, by the kind of an axis."""

import math
from types import SimpleNamespace

import pytest

from objectives.accuracy import Accuracy
from objectives.divergence import JS, KL
from objectives.latency import Latency
from objectives.loss import Loss, Perplexity
from results.axes import Quantity
from results.bounds import bound_of
from searcher.contracts.objective import Objective


class Errors(Objective):
    unit = "share"

    def measure(self, candidate):
        raise NotImplementedError


class Reward(Objective):
    unit = "points"

    def measure(self, candidate):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("objective", "dense", "worst", "best"),
    [
        (Perplexity(), 30.0, 300.0, 30.0),
        (Loss(), 3.0, 3.0 + math.log(10), 3.0),
        (KL(), 0.0, math.log(10), 0.0),
        (JS(), 0.0, math.log(2), 0.0),
        (Accuracy("items.jsonl"), 0.8, 0.0, 0.8),
        (Errors(), 0.02, 0.2, 0.02),
        (Errors(), 0.2, 1.0, 0.2),
        (Errors(), 0.0, 1.0, 0.0),
        (Reward(), 5.0, 50.0, 5.0),
        (Latency(), 1.0, 1.0, 0.0),
        (None, 134.5e6, 134.5e6, 0.0),
    ],
)
def test_the_dense_model_says_where_an_axis_ends(objective, dense, worst, best):
    found = bound_of(SimpleNamespace(objectives={"it": objective} if objective else {}), quantity(dense))
    assert (found.worst, found.best) == (pytest.approx(worst), pytest.approx(best))
    assert found.told


@pytest.mark.parametrize(("objective", "dense"), [(Reward(), 0.0), (Reward(), -1.0), (Accuracy("items.jsonl"), 0.0)])
def test_what_the_dense_model_does_not_bound_has_no_hypervolume(objective, dense):
    assert bound_of(SimpleNamespace(objectives={"it": objective}), quantity(dense)) is None


def quantity(dense):
    return Quantity("it", "it", True, False, lambda run, plan: dense)
