"""Every registered objective keeps the contract."""

import pytest
from choices import make_items, merging_tokenizer, write_items, write_task

from searcher.contracts import registry
from searcher.testing import ObjectiveContract


@pytest.fixture(scope="session")
def needed(tmp_path_factory):
    """The options that objectives cannot do without, or would take long without."""
    folder, items = tmp_path_factory.mktemp("items"), make_items(24)
    file = str(write_items(folder / "items.jsonl", items))
    return {
        "accuracy": {"file": file},
        "stability": {"file": file},
        "latency": {"tokens": 16, "new_tokens": 4, "rounds": 3},
        "lm-eval": {"task": str(write_task(folder / "task", items)), "items": 5},
    }


@pytest.fixture(params=sorted(registry.BUILT_IN["objective"]), autouse=True)
def _each(request, needed, monkeypatch, tmp_path_factory):
    TestEveryObjective.name = request.param
    TestEveryObjective.options = needed.get(request.param, {})
    if request.param == "lm-eval":  # the harness takes no tokenizer without a token that texts begin with
        monkeypatch.setattr("searcher.testing.tiny_tokenizer", merging_tokenizer)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


class TestEveryObjective(ObjectiveContract):
    pass
