"""Tasks of lm-evaluation-harness, local ones, on pruned models."""

import json
import sys

import numpy as np
import pytest
import torch
from choices import make_items, merging_tokenizer, write_items, write_task
from families import tiny_model
from tiny_checkpoint import save_tiny_checkpoint

from objectives import lm_eval
from objectives.accuracy import Accuracy
from objectives.lm_eval import LmEval
from searcher.contracts import registry
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError
from searcher.evaluation.open_executor import open_executor
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements

WINDOWS = torch.randint(97, (2, 24), generator=torch.Generator().manual_seed(0))
PLANS = [PrunePlan.parse(text) for text in ("dense", "1", "0.attn,2.ffn")]


def letters(name):
    """A filter for the first letter that the model writes."""
    return {"name": name, "filter": [{"function": "regex", "regex_pattern": "([a-h])"}, {"function": "take_first"}]}


GENERATION = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "{{choices[0][0]}}",
    "generation_kwargs": {"until": ["."], "do_sample": True, "temperature": 2.0, "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "filter_list": [letters("one"), letters("two")],
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def measure(objectives, split="search", cores=1, model=None, plans=PLANS):
    with torch.inference_mode():
        replay = open_replay(model or tiny_model("llama"), Granularity.SUBLAYER)
        prices = measure_prices(replay, 24)
        windows = {"search": WINDOWS, "report": WINDOWS}
        executor = open_executor(replay, objectives, windows, merging_tokenizer(), prices, cores=cores)
    known = Measurements(executor.layout)
    for line in executor.measure(split, plans, known):
        known.add(line)
    return {name: [known.rows(split, plan, name) for plan in plans] for name in objectives}


def test_equals_accuracy_on_the_same_items(tmp_path):
    items = make_items(40)
    task, file = write_task(tmp_path / "task", items), str(write_items(tmp_path / "items.jsonl", items))
    halves = {}
    for metric in ("acc", "acc_norm"):
        objectives = {"theirs": LmEval(str(task), metric), "ours": Accuracy(file, metric)}
        for split in ("search", "report"):
            found = measure(objectives, split)
            assert [len(rows) for rows in found["theirs"]] == [20] * 3
            halves[metric, split] = found
        # the halves differ, but together they are all items
        for plan in range(3):
            theirs, ours = (
                sum(halves[metric, split][name][plan].sum() for split in ("search", "report"))
                for name in ("theirs", "ours")
            )
            assert theirs == ours > 0


def test_splits_share_no_document_and_fewer_are_a_part_of_more(tmp_path):
    items = make_items(30)
    task = str(write_task(tmp_path / "task", [*items, *items[:10]]))
    objective = LmEval(task)
    search, report = (objective._documents(split) for split in ("search", "report"))
    assert not {d.digest for d in search} & {d.digest for d in report}
    assert len(search) == len(report) == 15  # those that are there twice are taken once
    few = LmEval(task, items=4)
    assert few.numbers("report") == 4
    assert set(few._documents("report")) < set(report)


def test_documents_of_a_group_are_pooled(tmp_path, monkeypatch):
    manager = lm_eval._manager
    monkeypatch.setattr(lm_eval, "_manager", lambda path, _: manager(path, False))
    items, folder = make_items(24), tmp_path / "tasks"
    folder.mkdir()
    for name, part in (("first", items[:16]), ("second", items[8:])):  # 8 documents are in both
        write_task(tmp_path / name, part, task=name).rename(folder / f"{name}.yaml")
    (folder / "both.yaml").write_text("group: both\ntask: [first, second]\n")
    objective = LmEval("both", include_path=str(folder))
    search, report = (objective._documents(split) for split in ("search", "report"))
    assert len(search) + len(report) == 32
    assert not {d.digest for d in search} & {d.digest for d in report}
    together = measure({"it": objective}, plans=[PrunePlan()])["it"][0]
    assert len(together) == len(search)
    alone = {name: LmEval(name, include_path=str(folder)) for name in ("first", "second")}
    monkeypatch.setattr(LmEval, "_choose", lambda self, _: [d for d in search if d.task in self._tasks])
    parts = measure(alone, plans=[PrunePlan()])
    assert together.tolist() == [*parts["first"][0], *parts["second"][0]]


def test_threads_and_repetitions_agree_and_nothing_stays_changed(tmp_path):
    task = str(write_task(tmp_path / "task", make_items(24), num_fewshot=2))
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plans = [PrunePlan.parse(text) for text in ("dense", "0", "1", "2", "0-1", "1-2")]
    one = measure({"it": LmEval(task)}, cores=1, model=model, plans=plans)["it"]
    two = measure({"it": LmEval(task)}, cores=2, model=model, plans=plans[::-1])["it"][::-1]
    assert [rows.tolist() for rows in one] == [rows.tolist() for rows in two]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_few_shot_examples_are_as_asked(tmp_path):
    task = str(write_task(tmp_path / "task", make_items(24), num_fewshot=2))
    shots = {}
    for asked in (None, 0, 1):
        objective = LmEval(task, num_fewshot=asked)
        objective.numbers("search")
        shots[asked] = objective._tasks["made_up"].get_config("num_fewshot")
    assert shots == {None: 2, 0: 0, 1: 1}


def test_answers_that_are_sampled_are_the_same_every_time(tmp_path, monkeypatch):
    task = str(write_task(tmp_path / "task", make_items(80), **GENERATION))
    model = tiny_model("llama")
    state = torch.get_rng_state()

    def once():
        return [rows.tolist() for rows in measure({"it": LmEval(task, "exact_match")}, cores=2, model=model)["it"]]

    before = once()
    assert 0 < np.mean(before) < 1
    assert once() == before
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(lm_eval, "SEED", 5)
    assert once() != before


def test_metrics_of_a_filter(tmp_path):
    task = str(write_task(tmp_path / "task", make_items(8), **GENERATION))
    for metric in ("exact_match", "exact_match,two"):
        (rows,) = measure({"it": LmEval(task, metric)}, plans=[PrunePlan()])["it"]
        assert np.isin(rows, (0, 1)).all()
        assert len(rows) == 4
    with pytest.raises(UsageError, match="The task has: one, two"):
        LmEval(task, "exact_match,three").numbers("search")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "no/such.yaml"}, "no such file"),
        ({"task": "made_op", "include_path": "."}, "Did you mean 'made_up'"),
        ({"task": "made_up", "include_path": "nowhere"}, "include_path 'nowhere'"),
        ({"task": "made_up.yaml", "metric": "acc_nrm"}, "Did you mean 'acc_norm'"),
        ({"task": "made_up.yaml", "metric": "f1"}, "no mean over documents"),
        ({"task": "lower.yaml", "metric": "acc"}, "no mean over documents where higher is better"),
        ({"task": "lost.yaml"}, "cannot be loaded"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    kinds = [("acc", "mean"), ("acc_norm", "mean"), ("f1", "f1")]
    metrics = [{"metric": metric, "aggregation": kind, "higher_is_better": True} for metric, kind in kinds]
    write_task(tmp_path, make_items(8), metric_list=metrics)
    lower = {"metric": "acc", "aggregation": "mean", "higher_is_better": False}
    write_task(tmp_path / "lower", make_items(8), metric_list=[lower]).rename("lower.yaml")
    write_task(tmp_path / "lost", make_items(8), dataset_kwargs={"data_files": "gone.jsonl"}).rename("lost.yaml")
    manager = lm_eval._manager
    monkeypatch.setattr(lm_eval, "_manager", lambda path, _: manager(path, False))  # reading all tasks takes seconds
    with pytest.raises(UsageError) as error:
        registry.make("objective", "lm-eval", options).numbers("search")
    assert message in str(error.value)


def test_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'pruneplan\[lm-eval\]'"):
        LmEval("any.yaml").numbers("search")


def test_on_the_command_line_it_is_quiet(searcher_command, tmp_path, caplog):
    task = write_task(tmp_path / "task", make_items(20))
    arguments = ["--plan", "dense", "--plan", "1", "--format", "json", "--objective", "lm-eval"]
    arguments += ["--objective-arg", f"task={task}"]
    save_tiny_checkpoint(tmp_path / "model")
    merging_tokenizer().save_pretrained(tmp_path / "model")
    done = searcher_command("evaluate", *arguments)
    assert done.code == 2
    assert "needs a tokenizer with a token" in done.err
    done = searcher_command("evaluate", *arguments, "--model", tmp_path / "model")
    assert done.code == 0, done.err
    values = [evaluation["values"]["lm-eval"] for evaluation in json.loads(done.out)["evaluations"]]
    assert all(value * 10 == pytest.approx(round(value * 10)) for value in values)
    assert [line.split()[0] for line in done.err.splitlines()] == ["Reading", "Loading", "Checking"]
    assert not [record for record in caplog.records if record.name.startswith("lm_eval")]
