"""Whatever goes on from a run does so with the model and text of that run, wherever they are by now."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoint import OPTIONS, write_text

import searcher

RUN = ("run", "--strategy", "greedy", "--budget", "1", "--name", "a")
OTHER_MODEL = "runs/a is a run of another model: 'model' now has other weights, or another config"
EXPORT = ("export", "runs/a", "-o", "out", "--no-check")
HEAL = ("heal", "runs/a", "--heal", "bias", "--heal-windows", "8")


def train(folder):
    """The same file names, other weights."""
    for file in folder.glob("*.safetensors"):
        torch.manual_seed(1)
        weights = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in load_file(file).items()}
        save_file(weights, file, {"format": "pt"})


@pytest.fixture
def a_run(searcher_command, tiny, tmp_path):
    """A finished run of `./model` on `./text.jsonl`, and a function that runs commands without naming either."""
    shutil.copytree(tiny / "model", tmp_path / "model")
    shutil.copy(tiny / "text.jsonl", tmp_path / "text.jsonl")

    def call(name, *arguments):
        return searcher_command(name, *arguments, defaults=False)

    done = call(*RUN, *options("model", "text.jsonl"))
    assert done.code == 0, done.err
    return call


def options(model, data):
    flags = [text for name, value in OPTIONS.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["--model", str(model), "--data", str(data), *flags]


@pytest.mark.parametrize("command", [EXPORT, HEAL, ("convert", "runs/a", "-o", "plan.yaml")], ids=lambda c: c[0])
def test_another_model_under_the_old_name_is_refused(a_run, tmp_path, command):
    train(tmp_path / "model")
    done = a_run(*command)
    assert done.code == 2
    assert OTHER_MODEL in done.err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "plan.yaml").exists()


def test_the_model_in_memory_is_that_of_the_run(a_run, tmp_path):
    assert searcher.best_model("runs/a", quiet=True).config.num_hidden_layers == 5
    train(tmp_path / "model")
    with pytest.raises(searcher.UsageError, match=OTHER_MODEL):
        searcher.best_model("runs/a", quiet=True)


def test_a_search_is_not_resumed_on_another_model_nor_compared_with_it(a_run, tmp_path):
    train(tmp_path / "model")
    done = a_run(*RUN, *options("model", "text.jsonl"))
    assert done.code == 2
    assert "another configuration: model_fingerprint was" in done.err
    assert a_run(*RUN[:-1], "b", *options("model", "text.jsonl")).code == 0
    assert "cannot be compared: model_fingerprint is" in a_run("compare", "runs/a", "runs/b").err


@pytest.mark.parametrize("command", [EXPORT, HEAL], ids=lambda c: c[0])
def test_a_model_of_the_same_name_in_another_folder_is_not_taken_for_it(a_run, tmp_path, monkeypatch, command):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "model", elsewhere / "model")
    train(elsewhere / "model")
    shutil.copytree(tmp_path / "runs", elsewhere / "runs")
    monkeypatch.chdir(elsewhere)
    assert a_run(*command).code == 0  # that of the run was found where it is
    shutil.rmtree("out", ignore_errors=True)
    record = json.loads(Path("runs/a/run.json").read_text())
    record["config"]["model"] = "model"  # as runs of older versions have it
    Path("runs/a/run.json").write_text(json.dumps(record))
    done = a_run(*command)
    assert done.code == 2
    assert OTHER_MODEL in done.err


def test_a_run_that_was_moved_and_one_whose_model_was_moved(a_run, tmp_path, monkeypatch):
    (tmp_path / "else").mkdir()
    shutil.move(tmp_path / "runs" / "a", tmp_path / "else" / "moved")
    monkeypatch.chdir(tmp_path / "else")
    assert a_run("export", "moved", "-o", "one", "--no-check").code == 0
    (tmp_path / "model").rename(tmp_path / "renamed")
    assert a_run("export", "moved", "-o", "two", "--no-check").code == 2
    assert a_run("export", "moved", "-o", "two", "--no-check", "--model", tmp_path / "renamed").code == 0
    train(tmp_path / "renamed")
    done = a_run("export", "moved", "-o", "three", "--no-check", "--model", tmp_path / "renamed")
    assert done.code == 2
    assert "moved is a run of another model: 'renamed' now has other weights" in done.err


@pytest.mark.parametrize("named", [False, True], ids=["default name", "named"])
def test_spellings_of_a_path_are_one_run(a_run, tmp_path, named):
    name = RUN if named else RUN[:-2]
    spellings = ["model", "./model", "./model/", tmp_path / "model"]
    assert {a_run(*name, *options(model, "./text.jsonl")).out for model in spellings} == {
        a_run(*name, *options("model", tmp_path / "text.jsonl")).out
    }
    assert len([folder for folder in os.listdir("runs") if folder != "a"]) == (0 if named else 1)


def test_another_text_under_the_old_name_is_refused_where_it_is_healed_on(a_run, tmp_path):
    write_text(tmp_path / "text.jsonl", documents=70)
    healed = (*EXPORT, "--heal", "bias", "--heal-windows", "8")
    for command in (HEAL, healed):
        done = a_run(*command)
        assert done.code == 2
        assert "runs/a is a run on another text: 'text.jsonl' has changed since" in done.err
    assert a_run(*EXPORT).code == 0  # reads no text
    shutil.rmtree("out")
    for command in (HEAL, healed):  # another text was asked for
        assert a_run(*command, "--data", "text.jsonl").code == 0
