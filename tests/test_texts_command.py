"""Several texts on the command line, end to end, on a tiny checkpoint."""

import json
import random
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from finished import changed, finish
from tiny_checkpoint import OPTIONS

import searcher
from results.command import command_line
from results.comparison import Comparison
from searcher.runs.journal import RUN_FILE

LETTERS = {"easy": "abcdefgh", "hard": "ijklmnop"}
COSTS = {"easy": (0.0, 0.0, 9.0, 9.0, 1.0, 1.0), "hard": (1.5, 1.5, 9.0, 9.0, 1.0, 1.0)}
"""What removing each block costs on each text: 0 and 1 least on the whole, 4 and 5 least on the worse text."""
DENSE = {"easy": 7.0, "hard": 1.0}
GAME = f"""
import numpy as np
from searcher.contracts.objective import Objective

class Game(Objective):
    '''What a plan costs is written down, by text.'''
    unit = "points"

    def measure(self, candidate):
        hard = (candidate.ids > {ord("i") - 33}).any(dim=1).tolist()
        removed = [unit.block for unit in candidate.plan.removed]
        found = {{kind: dense + sum(costs[i] for i in removed) for kind, dense, costs in
                 {[(kind, DENSE[kind], costs) for kind, costs in COSTS.items()]}}}
        return np.array([found["hard" if one else "easy"] for one in hard])
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two texts of different letters."""
    folder = tmp_path_factory.mktemp("texts")
    rng = random.Random(0)
    for name, letters in LETTERS.items():
        words = ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(300)]
        rows = [{"text": " ".join(rng.choices(words, k=30))} for _ in range(60)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def both(texts):
    return [text for name in LETTERS for text in ("--data", str(texts / f"{name}.jsonl"))]


@pytest.fixture
def call(searcher_command, tiny, texts, tmp_path):
    """A command on both texts."""
    (tmp_path / "game.py").write_text(GAME)
    options = [text for name, value in OPTIONS.items() for text in (f"--{name.replace('_', '-')}", str(value))]

    def run(name, *arguments):
        given = ["--model", tiny / "model", *both(texts), *options]
        return searcher_command(name, *given, *arguments, defaults=False)

    return run


@pytest.mark.parametrize(("robust", "plan"), [("worst", "4-5"), ("mean", "0-1")])
def test_the_plan_that_a_game_of_two_texts_makes_optimal(call, robust, plan):
    total = {p: [sum(COSTS[text][i] for i in p) for text in LETTERS] for p in combinations(range(6), 2)}
    best = min(total, key=lambda p: (max if robust == "worst" else np.mean)(total[p]))
    assert plan == f"{best[0]}-{best[1]}"
    game = ["--objective", "game.py:Game", "--objective", "parameters", "--budget", 2, "--robust", robust]
    arguments = [*game, "--strategy", "exhaustive", "--windows", 5]
    done = call("run", *arguments, "--format", "json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["best"]["plan"] == plan
    assert document["report_by_text"] == [
        {
            "text": f"{text}.jsonl",
            "windows": 16,
            "dense": {"game.py:Game": flat(DENSE[text])},
            "best": {"game.py:Game": flat(DENSE[text] + total[best][number])},
        }
        for number, text in enumerate(LETTERS)
    ]
    shown = call("run", *arguments)
    assert "on easy.jsonl + hard.jsonl" in shown.out
    assert f"Plan {plan} by text, on the report windows" in shown.out
    assert "shared evenly over 2 texts" in shown.out
    assert ("by its worst text" in shown.out) == (robust == "worst")


def flat(value):
    return {"value": value, "low": value, "high": value}


def test_the_record_knows_the_text_of_every_window_and_resumes(call, texts):
    arguments = ["--strategy", "greedy", "--budget", "1-2", "--robust", "worst", "--windows", 5]
    assert call("run", *arguments, "--name", "one").code == 0
    record = json.loads(Path("runs/one", RUN_FILE).read_text())
    assert record["text"] == "easy.jsonl + hard.jsonl"
    assert record["texts"]["names"] == ["easy.jsonl", "hard.jsonl"]
    assert record["texts"]["windows"]["report"] == [0, 1] * 16
    assert sorted(record["texts"]["windows"]["search"]) == [0, 0, 0, 1, 1]
    assert record["config"]["data"] == [str(texts / "easy.jsonl"), str(texts / "hard.jsonl")]
    kinds = {}
    for text, document in zip(record["texts"]["windows"]["report"], record["documents"]["report"], strict=True):
        kinds.setdefault(document, set()).add(text)
    assert all(document == -1 or len(found) == 1 for document, found in kinds.items())
    again = call("run", *arguments, "--name", "one")
    assert again.code == 0, again.err
    other = call("run", *arguments[:-4], "--windows", 5, "--name", "one")
    assert other.code == 2
    assert "robust was" in other.err


@pytest.mark.parametrize(
    "windows", [{}, {"search": [0, 1], "report": [0] * 32}, {"search": [0] * 4, "report": [2] * 32}]
)
def test_a_damaged_list_of_texts_is_refused(tiny, tmp_path, windows):
    run = finish(tiny, tmp_path, "one", strategy="random", budget=1)

    def spoil(record):
        record["texts"] = {"names": ["a", "b"], "windows": windows}

    with pytest.raises(searcher.UsageError, match="is damaged"):
        changed(run, tmp_path / "two", spoil)


def test_what_follows_from_a_run_reads_its_texts_again(call, searcher_command):
    assert call("run", "--strategy", "greedy", "--budget", 1, "--robust", "worst", "--name", "one").code == 0
    assert call("run", "--strategy", "random", "--budget", 1, "--name", "two").code == 0
    for command in (
        ["heal", "runs/one", "--heal", "bias", "--heal-windows", 20],
        ["export", "runs/one", "--heal", "bias", "-o", "out", "--no-check"],
    ):
        done = searcher_command(*command, defaults=False)
        assert done.code == 0, done.err
    compared = searcher_command("compare", "runs/one", "runs/two", defaults=False)
    assert compared.code == 0, compared.err
    assert "greedy chose its plans by their worst text" in " ".join(compared.out.split())
    given = command_line(searcher.load_run("runs/one").config).split()
    assert [given[i + 1].rpartition("/")[2] for i, word in enumerate(given) if word == "--data"] == [
        "easy.jsonl",
        "hard.jsonl",
    ]


def test_folders_of_before_there_could_be_several_texts(tiny, tmp_path, monkeypatch):
    """Their `run.json` holds one text as a string, and no word of how texts are put together."""
    monkeypatch.chdir(tmp_path)
    new = finish(tiny, tmp_path / "runs", "new", strategy="greedy", budget=2)
    shutil.copytree(new.folder, tmp_path / "runs" / "old")
    path = tmp_path / "runs" / "old" / RUN_FILE
    record = json.loads(path.read_text())
    assert record["config"]["data"] == str(tiny / "text.jsonl")
    assert record["config"].pop("robust") == "mean"
    assert "robust" not in record["identity"]
    assert "texts" not in record
    del record["outcome"]
    path.write_text(json.dumps(record))
    lines = (path.parent / "evaluations.jsonl").read_text()
    old = finish(tiny, tmp_path / "runs", "old", strategy="greedy", budget=2)
    assert (path.parent / "evaluations.jsonl").read_text() == lines  # nothing was measured again
    assert old.document()["best"] == new.document()["best"]
    assert "report_by_text" not in old.document()
    assert old.config.data == (str(tiny / "text.jsonl"),)
    assert Comparison([old, new]).sections[0].sizes


def test_python_and_files_take_one_text_or_several(texts, tiny, tmp_path, searcher_command):
    paths = [str(texts / f"{name}.jsonl") for name in LETTERS]
    options = {"model": str(tiny / "model"), "quiet": True, **OPTIONS}
    told = [searcher.evaluate(["dense"], data=data, **options) for data in (paths[0], paths[:1], paths)]
    assert told[0] == told[1] != told[2]
    file = {"budget": 1, "strategy": "random", "data": paths, "model": str(tiny / "model"), "name": "a", **OPTIONS}
    (tmp_path / "c.yaml").write_text(json.dumps(file))
    done = searcher_command("run", "--config", "c.yaml", "--format", "json", defaults=False)
    assert done.code == 0, done.err
    assert [one["text"] for one in json.loads(done.out)["report_by_text"]] == ["easy.jsonl", "hard.jsonl"]


def test_chats_on_the_command_line(tiny, texts, tmp_path, searcher_command):
    from transformers import AutoTokenizer

    rows = [json.loads(line)["text"] for line in (texts / "easy.jsonl").read_text().splitlines()]
    chats = [{"messages": [{"role": "user", "content": r[:20]}, {"role": "assistant", "content": r}]} for r in rows]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, chats)))
    options = [text for name, value in OPTIONS.items() for text in (f"--{name.replace('_', '-')}", value)]
    given = ["--plan", "dense", "--data", "chat.jsonl", *options]
    refused = searcher_command("evaluate", "--model", tiny / "model", *given, defaults=False)
    assert refused.code == 2
    assert "has no chat template" in refused.err
    shutil.copytree(tiny / "model", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "model")
    shown = searcher_command("evaluate", "--model", "model", *given, "--format", "json", defaults=False)
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["evaluations"][0]["values"]["perplexity"] > 1
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": []}))
    bad = searcher_command("evaluate", "--model", "model", *given, defaults=False)
    assert bad.code == 2
    assert "line 1: 'messages' is empty" in bad.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--windows", 1], "2 texts need 2 search windows or more, 1 for each, but --windows is 1"),
        (["--heal", "bias", "--heal-windows", 3], "2 texts need 4 heal windows or more"),
        (["--robust", "worst", "--racing", "0.05"], "--racing drops plans by their mean over windows"),
        (["--robust", "regret"], "'regret' is not one of 'mean', 'worst'"),
    ],
)
def test_what_cannot_be_is_refused(call, arguments, message):
    done = call("run", "--budget", 1, *arguments)
    assert done.code == 2
    assert message in done.err
