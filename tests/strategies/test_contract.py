"""Every registered strategy keeps the contract."""

import pytest

from searcher import registry
from searcher.testing import StrategyContract


@pytest.fixture(params=sorted(registry.BUILT_IN["strategy"]), autouse=True)
def _each(request):
    TestEveryStrategy.name = request.param


class TestEveryStrategy(StrategyContract):
    pass
