"""Every registered strategy keeps the contract."""

import pytest

from searcher.contracts import registry
from searcher.testing import StrategyContract

OPTIONS = {
    # statistics are made up in a game, so what goes by them cannot know better
    "influence": {"metric": "loss"},
    "contiguous": {"metric": "loss"},
    # a sampler thinks long about spaces that are soon exhausted
    "optuna": {"trials": 60, "patience": 40},
    # a test stops it at each of its asks, which are as many as generations
    "evopress": {"generations": 25},
}


@pytest.fixture(params=sorted(registry.BUILT_IN["strategy"]), autouse=True)
def _each(request):
    TestEveryStrategy.name = request.param
    TestEveryStrategy.options = OPTIONS.get(request.param, {})
    TestEveryStrategy.finds_optimum = request.param != "contiguous"  # the optimum is no span


class TestEveryStrategy(StrategyContract):
    pass
