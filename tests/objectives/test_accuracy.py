"""Accuracy: lm-evaluation-harness gives the same for every item."""

import json

import numpy as np
import pytest
import torch
from choices import make_items, merging_tokenizer, write_items, write_task
from executors import executor_on, measure_all
from families import tiny_model

from objectives import multiple_choice as mc
from objectives.accuracy import Accuracy
from searcher.contracts import registry
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError
from searcher.replay.pruned_model import pruned
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements

WINDOWS = torch.randint(97, (2, 24), generator=torch.Generator().manual_seed(0))


def opened(replay, objectives, tokenizer):
    return executor_on({"search": WINDOWS, "report": WINDOWS}, objectives, replay, tokenizer)


def measured(executor, split, plans):
    return measure_all(executor, list(map(PrunePlan.parse, plans)), split)[0]


def by_the_harness(task, replay, plan, tokenizer):
    """What it logs for each question, by its text."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    with torch.inference_mode(), pruned(replay.model, replay.architecture, replay.outputs, plan) as model:
        lm = HFLM(pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=4)
        found = simple_evaluate(lm, tasks=[str(task)], task_manager=manager, log_samples=True)
    samples = found["samples"]["made_up"]
    return found["results"]["made_up"], {json.dumps([s["doc"]["context"], s["doc"]["choices"]]): s for s in samples}


def order(file, split, tokenizer):
    """The items in the order in which their numbers are given."""
    chosen = mc.take(mc.split_items(mc.read_items(file), split), 100)
    return [item.item for group in mc.pack(mc.encode(item, tokenizer) for item in chosen) for item in group]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_equals_the_harness_item_by_item(tmp_path):
    items = make_items(60, empty_contexts=True)
    task, file = write_task(tmp_path / "task", items), str(write_items(tmp_path / "items.jsonl", items))
    tokenizer = merging_tokenizer()
    with torch.inference_mode():
        replay = open_replay(tiny_model("llama"), Granularity.SUBLAYER)
    objectives = {metric: Accuracy(file, metric) for metric in ("acc", "acc_norm")}
    executor = opened(replay, objectives, tokenizer)
    for plan in ("dense", "1,2.attn"):
        _, theirs = by_the_harness(task, replay, PrunePlan.parse(plan), merging_tokenizer())
        for split in ("search", "report"):
            known = measured(executor, split, [plan])
            expected = [theirs[item.text] for item in order(file, split, tokenizer)]
            assert len(expected) == 30
            for metric in objectives:
                rows = known.rows(split, PrunePlan.parse(plan), metric)
                assert rows.tolist() == [sample[metric] for sample in expected]
                assert 0 < rows.mean() < 1


def test_its_standard_error_is_that_of_the_harness(tmp_path):
    items = make_items(40)
    report = [
        json.loads(item.text)
        for item in mc.split_items(mc.read_items(str(write_items(tmp_path / "all.jsonl", items))), "report")
    ]
    kept = [item for item in items if [item["context"], item["choices"]] in report]
    tokenizer = merging_tokenizer()
    with torch.inference_mode():
        replay = open_replay(tiny_model("llama"), Granularity.BLOCK)
    executor = opened(replay, {"it": Accuracy(str(tmp_path / "all.jsonl"))}, tokenizer)
    rows = measured(executor, "report", ["dense"]).rows("report", PrunePlan(), "it")
    theirs, _ = by_the_harness(write_task(tmp_path / "task", kept), replay, PrunePlan(), merging_tokenizer())
    assert rows.mean() == pytest.approx(theirs["acc,none"])
    assert rows.std(ddof=1) / np.sqrt(len(rows)) == pytest.approx(theirs["acc_stderr,none"])


def test_objectives_on_one_file_share_forward_passes_and_losses(tmp_path):
    file = str(write_items(tmp_path / "items.jsonl", make_items(60)))
    with torch.inference_mode():
        replay = open_replay(tiny_model("llama"), Granularity.BLOCK)

    def work(**objectives):
        executor = opened(replay, objectives, merging_tokenizer())
        lines = list(executor.measure("search", [PrunePlan.parse("1")], Measurements(executor.layout)))
        assert all(set(line.values) == set(objectives) for line in lines)
        return sum(line.layer_forwards for line in lines), sum(line.heads for line in lines)

    one = work(acc=Accuracy(file))
    assert one[0] > 0
    assert one[1] > 0
    stability = registry.make("objective", "stability", {"file": file})
    assert work(acc=Accuracy(file), norm=Accuracy(file, "acc_norm"), stability=stability) == one


def test_fewer_items_and_other_files_are_measured_apart(tmp_path):
    file = str(write_items(tmp_path / "items.jsonl", make_items(60)))
    with torch.inference_mode():
        replay = open_replay(tiny_model("llama"), Granularity.BLOCK)
    executor = opened(replay, {"all": Accuracy(file), "some": Accuracy(file, items=7)}, merging_tokenizer())
    known = measured(executor, "search", ["1"])
    assert len(known.rows("search", PrunePlan.parse("1"), "all")) == 30
    assert len(known.rows("search", PrunePlan.parse("1"), "some")) == 7


def test_no_likelihood_is_no_verdict(tmp_path):
    file = str(write_items(tmp_path / "items.jsonl", make_items(20)))
    with torch.inference_mode():
        replay = open_replay(tiny_model("llama", num_blocks=3), Granularity.BLOCK)
        replay.architecture.blocks[1].mlp.down_proj.weight.fill_(float("nan"))
    executor = opened(replay, {"it": Accuracy(file)}, merging_tokenizer())
    known = measured(executor, "search", ["dense", "1"])
    assert np.isnan(known.rows("search", PrunePlan(), "it")).all()
    assert np.isfinite(known.rows("search", PrunePlan.parse("1"), "it")).all()


def test_options_are_checked_without_the_file():
    registry.make("objective", "accuracy", {"file": "there is none.jsonl", "metric": "acc_norm", "items": "5"})
    for options in ({}, {"file": "x", "metric": "f1"}, {"file": "x", "items": 1}):
        with pytest.raises(UsageError):
            registry.make("objective", "accuracy", options)


def test_on_the_command_line(searcher_command, tmp_path):
    file = write_items(tmp_path / "items.jsonl", make_items(40))
    arguments = ["--plan", "dense", "--plan", "1", "--format", "json", "--objective", "accuracy"]
    done = searcher_command("evaluate", *arguments, "--objective-arg", f"file={file}")
    assert done.code == 0, done.err
    values = [evaluation["values"]["accuracy"] for evaluation in json.loads(done.out)["evaluations"]]
    assert all(value * 20 == pytest.approx(round(value * 20)) for value in values)
    file.write_text('{"context": "a"}\n')
    done = searcher_command("evaluate", *arguments, "--objective-arg", f"file={file}")
    assert done.code == 2
    assert f"{file}, line 1: no field 'choices'" in done.err.replace("\n", " ")
