"""The mergekit recipe of a plan."""

import json
from itertools import pairwise

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoint import OPTIONS

import searcher
from results.mergekit import kept_spans, recipe, write_merge_config
from searcher.contracts.plan import PrunePlan, Unit
from searcher.errors import UsageError


@given(st.sets(st.integers(0, 11), max_size=11))
def test_what_is_kept_is_what_the_plan_does_not_remove(removed):
    spans = kept_spans(PrunePlan.of(map(Unit, removed)), 12)
    kept = [block for first, end in spans for block in range(first, end)]
    assert kept == [block for block in range(12) if block not in removed]
    assert all(end < first for (_, end), (first, _) in pairwise(spans))  # spans do not touch


@pytest.mark.parametrize(("plan", "reason"), [("3,4.attn", "4.attn by itself"), ("0-5", "leaves no block")])
def test_what_mergekit_cannot_cut_is_refused(plan, reason):
    with pytest.raises(UsageError, match=reason):
        kept_spans(PrunePlan.parse(plan), 6)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    options = {"model": str(tiny / "model"), "data": str(tiny / "text.jsonl"), "runs_dir": str(folder), **OPTIONS}
    return searcher.run(strategy="greedy", budget="1-3", quiet=True, **options)


@pytest.mark.parametrize("size", [None, 1, 2])
def test_the_file_is_the_recipe_of_the_chosen_plan(run, tiny, tmp_path, size):
    write_merge_config(run, tmp_path / "plan.yaml", size)
    found = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    assert found == recipe(run, size)
    assert (found["merge_method"], found["dtype"]) == ("passthrough", "float32")
    sources = [source for piece in found["slices"] for source in piece["sources"]]
    assert {source["model"] for source in sources} == {str(tiny / "model")}
    kept = [block for source in sources for block in range(*source["layer_range"])]
    plan = next(e.plan for e in run.chosen if e.size == (size or 3))
    assert kept == [block for block in range(6) if block not in {unit.block for unit in plan.removed}]


def test_a_size_that_was_not_chosen_is_refused(run):
    with pytest.raises(UsageError, match=r"no plan of size 4\. There are plans of size 1, 2, 3"):
        recipe(run, 4)


@pytest.mark.parametrize("model", [None, "model.Q4_0.GGUF"])
def test_a_model_that_is_no_checkpoint_must_be_named(run, monkeypatch, model):
    monkeypatch.setattr(run, "config", run.config.model_copy(update={"model": model}))
    with pytest.raises(UsageError, match="--model-name"):
        recipe(run)
    assert recipe(run, model="org/name")["slices"][0]["sources"][0]["model"] == "org/name"


def test_a_revision_is_named(run, monkeypatch):
    monkeypatch.setattr(run, "config", run.config.model_copy(update={"model": "org/name", "revision": "v2"}))
    assert recipe(run)["slices"][0]["sources"][0]["model"] == "org/name@v2"


def test_a_path_is_written_in_full(run, tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    for place in ("model", "./model", "model/", "../" + tiny.name + "/model"):
        monkeypatch.setattr(run, "config", run.config.model_copy(update={"model": place}))
        for found in (recipe(run), recipe(run, model=place)):
            assert found["slices"][0]["sources"][0]["model"] == str(tiny / "model")


@pytest.mark.parametrize("model", ["./gone", "gone/for/good", "/gone", "~/gone"])
def test_a_path_that_leads_nowhere_is_no_id_of_the_hub(run, model):
    with pytest.raises(UsageError, match=f"no model in {model}"):
        recipe(run, model=model)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"layer_types": ["full_attention"] * 6}, "layer_types"),
        ({"text_config": {"layer_types": ["full_attention", "sliding_attention"] * 3}}, "layer_types"),
        ({"no_rope_layers": [1, 1, 0, 1, 1, 0]}, "no_rope_layers"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"first_k_dense_replace": 1}, "first_k_dense_replace"),
        ({"sliding_window_pattern": 6}, "sliding_window_pattern"),
        ({"mlp_only_layers": [], "decoder_sparse_step": 1, "eos_token_id": [1, 2, 3, 4, 5, 6]}, ""),
    ],
)
def test_a_config_that_speaks_of_single_blocks_is_for_export(run, tiny, tmp_path, changes, field):
    content = json.loads((tiny / "model/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, **changes}))
    if not field:
        assert recipe(run, model=str(tmp_path))
        return
    with pytest.raises(UsageError, match=rf"'{field}'.*searcher export"):
        recipe(run, model=str(tmp_path))
