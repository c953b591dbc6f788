"""Paths of a configuration, in full and by name."""

import pytest

from searcher.runs.config import RunConfig
from searcher.runs.options import make_config
from searcher.runs.places import absolute, by_name


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Names things that are there, in several spellings, and names that are no paths."""
    monkeypatch.chdir(tmp_path)
    for name in ("model", "acc", "tables"):
        (tmp_path / name).mkdir()
    for name in ("text.txt", "q.jsonl", "mine.py", "tables/t.json"):
        (tmp_path / name).write_text("")
    fields = {
        "budget": 1,
        "model": "./model/",
        "data": "text.txt",
        "objective": ["perplexity", "mine.py:One", "two=mine.py:Two", "accuracy", "gone.py:Gone"],
        "objective_args": {"accuracy": {"file": "q.jsonl", "metric": "acc", "items": 10, "more": ["./tables/t.json"]}},
        "strategy": "./mine.py:Three",
        "strategy_args": {"file": "q.jsonl", "other": "q.missing"},
        "heal": "mine.py:Four:file=tables/t.json,size=3",
    }
    return make_config(RunConfig, fields)


def test_in_full(config, tmp_path):
    full = absolute(config)
    assert (full.model, full.data) == (f"{tmp_path}/model", (f"{tmp_path}/text.txt",))
    assert full.objective == (
        "perplexity",
        f"mine.py:One={tmp_path}/mine.py:One",
        f"two={tmp_path}/mine.py:Two",
        "accuracy",
        "gone.py:Gone",
    )
    assert full.goals == config.goals
    assert full.objective_specs["mine.py:One"][0] == f"{tmp_path}/mine.py:One"
    given = {"file": f"{tmp_path}/q.jsonl", "metric": "acc", "items": 10, "more": [f"{tmp_path}/tables/t.json"]}
    assert full.objective_args == {"accuracy": given}
    assert full.strategy == "./mine.py:Three"
    assert full.heal == f"{tmp_path}/mine.py:Four:file={tmp_path}/tables/t.json,size=3"
    assert absolute(full) == full


def test_by_name_all_spellings_are_equal(config):
    named = by_name(config.model_dump(mode="json"))
    assert named == by_name(absolute(config).model_dump(mode="json"))
    assert not {"model", "data"} & named.keys()
    assert named["strategy"] == "mine.py:Three"
    assert named["objective_args"]["accuracy"]["more"] == ["t.json"]
    plain = make_config(RunConfig, {"budget": 1, "data": "wikitext2"}).model_dump(mode="json")
    assert by_name(plain) == plain  # nothing there is a path
