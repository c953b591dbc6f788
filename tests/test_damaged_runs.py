"""Run folders of which something is gone or spoilt: one line that says what and what to do, and never a nan."""

import json
import shutil

import pytest
from finished import finish

from searcher.runs.journal import EVALUATIONS_FILE, RUN_FILE

NAMES = ("config", "identity", "limits", "layout", "model", "text", "num_blocks", "versions", "hardware", "format")
DEEPER = ("identity.dtype", "identity.windows", "outcome.cost", "outcome.chosen", "outcome.size", "outcome.notes")
READERS = {
    "compare": ("compare", "damaged", "whole"),
    "report": ("report", "damaged", "-o", "page.html"),
    "table": ("convert", "damaged", "-o", "plans.csv"),
    "recipe": ("convert", "damaged", "-o", "plan.yaml"),
    "export": ("export", "damaged", "-o", "small"),
    "heal": ("heal", "damaged", "--heal", "bias"),
}


def without(name):
    def change(folder):
        content = json.loads((folder / RUN_FILE).read_text())
        *parents, key = name.split(".")
        part = content
        for parent in parents:
            part = part[parent]
        del part[key]
        (folder / RUN_FILE).write_text(json.dumps(content))

    return change


def instead(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def with_value(name, value):
    def change(folder):
        content = json.loads((folder / RUN_FILE).read_text())
        (folder / RUN_FILE).write_text(json.dumps({**content, name: value}))

    return change


def lines_of(folder):
    return [json.loads(line) for line in (folder / EVALUATIONS_FILE).read_text().splitlines()]


def rewrite(change):
    """Every line of the journal that is of the chosen plan on the report split, changed, or left out if it is None."""

    def rewritten(folder):
        chosen = set(json.loads((folder / RUN_FILE).read_text())["outcome"]["chosen"].values())
        lines = [
            change(line) if line["split"] == "report" and line["plan"] in chosen else json.dumps(line).encode()
            for line in lines_of(folder)
        ]
        (folder / EVALUATIONS_FILE).write_bytes(b"".join(line + b"\n" for line in lines if line is not None))

    return rewritten


def short(line):
    return json.dumps(line | {"values": {name: numbers[:-1] for name, numbers in line["values"].items()}}).encode()


DAMAGE = {
    **{f"no {name}": (RUN_FILE, without(name)) for name in (*NAMES, *DEEPER)},
    "blocks as text": (RUN_FILE, with_value("num_blocks", "six")),
    "an option of another program": (RUN_FILE, with_value("config", {"budget": 1, "stratagem": "greedy"})),
    "no object": (RUN_FILE, instead(RUN_FILE, b"[]")),
    "torn": (RUN_FILE, instead(RUN_FILE, b'{"format": 1, "config": {')),
    "not UTF-8": (RUN_FILE, instead(RUN_FILE, b'{"model": "\xff"}')),
    "nested": (RUN_FILE, instead(RUN_FILE, b"[" * 100_000)),
    "a line that is gone": (EVALUATIONS_FILE, rewrite(lambda line: None)),
    "a line without values": (EVALUATIONS_FILE, rewrite(lambda line: json.dumps(line | {"values": {}}).encode())),
    "a line that is none": (EVALUATIONS_FILE, rewrite(lambda line: b"<<<<<<< ours")),
    "a line of too few numbers": (EVALUATIONS_FILE, rewrite(short)),
    "a line of a list": (EVALUATIONS_FILE, rewrite(lambda line: b"[1, 2]")),
    "a line that is not UTF-8": (EVALUATIONS_FILE, rewrite(lambda line: b'{"split": "\xff"}')),
    "a journal that is gone": (EVALUATIONS_FILE, lambda folder: (folder / EVALUATIONS_FILE).unlink()),
}


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """A finished run, and the same under another name."""
    folder = tmp_path_factory.mktemp("runs")
    finish(tiny, folder, "whole", strategy="greedy", budget="1-2")
    return folder


@pytest.fixture
def damaged(runs, tmp_path):
    for name in ("whole", "damaged"):
        shutil.copytree(runs / "whole", tmp_path / name)
    return tmp_path / "damaged"


@pytest.mark.parametrize("case", DAMAGE)
def test_every_command_says_what_is_wrong_and_what_to_do(damaged, searcher_command, case):
    name, spoil = DAMAGE[case]
    spoil(damaged)
    for command, arguments in READERS.items():
        done = searcher_command(*arguments, defaults=False)
        assert (done.code, done.out) == (2, ""), (command, done)
        message, hint = done.err.splitlines()[-2:]
        assert name in message, (command, message)
        assert hint.strip(), command
        assert "Traceback" not in done.err
    listed = searcher_command("list", "runs", "--runs-dir", ".", defaults=False)
    assert listed.code == 0
    assert ("damaged:" in listed.out) is (name == RUN_FILE)


@pytest.mark.parametrize("case", [case for case, (name, _) in DAMAGE.items() if case != "no format"])
def test_the_same_command_measures_what_is_missing_or_says_what_is_wrong(damaged, searcher_command, tiny, case):
    name, spoil = DAMAGE[case]
    spoil(damaged)
    same = (
        "run",
        "--strategy",
        "greedy",
        "--budget",
        "1-2",
        "--name",
        "damaged",
        "--runs-dir",
        ".",
        "--format",
        "json",
    )
    done = searcher_command(*same)
    assert "Traceback" not in done.err
    if case in ("a line that is gone", "a journal that is gone", "a line without values") or case == "no outcome":
        assert done.code == 0, done.err
        assert json.loads(done.out)["best"]["report"]["perplexity"]["value"] > 0
        assert "nan" not in done.out
    else:
        assert done.code == 2
        assert name in done.err


def test_line_ends_of_another_system_and_empty_lines_are_no_damage(damaged, searcher_command):
    for name in (RUN_FILE, EVALUATIONS_FILE):
        content = (damaged / name).read_bytes().replace(b"\n", b"\r\n")
        (damaged / name).write_bytes(content + b"\r\n")
    done = searcher_command("compare", "damaged", "whole", "--format", "json", defaults=False)
    assert done.code == 0, done.err
    same = ("run", "--strategy", "greedy", "--budget", "1-2", "--name", "damaged", "--runs-dir", ".")
    assert searcher_command(*same).code == 0
