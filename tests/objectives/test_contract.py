"""Every registered objective keeps the contract."""

import pytest

from searcher import registry
from searcher.testing import ObjectiveContract


@pytest.fixture(params=sorted(registry.BUILT_IN["objective"]), autouse=True)
def _each(request):
    TestEveryObjective.name = request.param


class TestEveryObjective(ObjectiveContract):
    pass
