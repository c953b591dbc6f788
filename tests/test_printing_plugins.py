"""Plug-ins that print, that are run more than once, or that note what is no JSON."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import command

from searcher.contracts import registry
from searcher.contracts.notes import plain_notes
from searcher.contracts.strategy import Outcome
from searcher.errors import UsageError

CHATTY = """
from pathlib import Path
from dataclasses import dataclass
import numpy as np
from objectives.loss import Loss
from searcher.healing.contract import Healing
from searcher.contracts.plan import PrunePlan
from searcher.replay.repair import Repair
from searcher.contracts.strategy import Ask, Outcome, Strategy

print("printed by import")
with open("imports.log", "a") as log:
    log.write("once\\n")

class Noisy(Loss):
    '''The loss, aloud.'''
    def __init__(self):
        print("printed by init")
    def prepare(self, dense):
        print("printed by prepare")
    def measure(self, candidate):
        print("printed by measure")
        return super().measure(candidate)
    def finish(self, mean):
        print("printed by finish")
        return super().finish(mean)

class Balm(Healing):
    '''Nothing, aloud.'''
    def heal(self, calibration, plan):
        print("printed by heal")
        return Repair()

@dataclass(frozen=True)
class Walk(Strategy):
    '''The first unit.'''
    note: str = "np.int64(3)"
    def search(self, space):
        print("printed by search")
        plan = PrunePlan.of(space.units[: space.size])
        yield Ask((plan,))
        return Outcome((plan,), {"found": eval(self.note)})
"""
PLACES = ("import", "init", "prepare", "measure", "finish", "search", "heal")
RUN = ("--strategy", "chatty.py:Walk", "--objective", "chatty.py:Noisy", "--budget", "1", "--name", "a")


@pytest.fixture
def chatty(tmp_path):
    (tmp_path / "chatty.py").write_text(CHATTY)
    return tmp_path


def test_what_plugins_print_goes_to_stderr_and_their_file_is_run_once(chatty, tiny):
    heal = ("--heal", "chatty.py:Balm", "--heal-top", "1", "--heal-windows", "4")
    asked = [sys.executable, "-m", "searcher", "run", *command(tiny), *RUN, *heal, "--format", "json"]
    done = subprocess.run(asked, cwd=chatty, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["best"]["plan"] == "0"
    assert [place for place in PLACES if f"printed by {place}" not in done.stderr] == []
    assert (chatty / "imports.log").read_text() == "once\n"


def test_every_command_keeps_stdout_for_its_result(chatty, searcher_command):
    assert json.loads(searcher_command("run", *RUN, "--format", "json").out)
    assert json.loads(searcher_command("run", *RUN[:-1], "b", "--format", "json").out)
    asked = ("--plan", "1", "--objective", "chatty.py:Noisy", "--format", "json")
    assert json.loads(searcher_command("evaluate", *asked).out)["evaluations"]
    assert json.loads(searcher_command("heal", *asked, "--heal", "chatty.py:Balm", "--heal-windows", "4").out)
    commands = {
        "compare": ("runs/a", "runs/b", "--format", "json"),
        "report": ("runs/a", "-o", "report.html"),
        "convert": ("runs/a", "-o", "table.csv"),
        "list": ("runs",),
    }
    for name, arguments in commands.items():
        done = searcher_command(name, *arguments, defaults=False)
        assert done.code == 0, done.err
        assert done.out
        assert "printed by" not in done.out
    assert "Usage: " in searcher_command("run", "--help", defaults=False).out


def test_a_file_is_run_again_when_it_has_changed_and_tells_namesakes_apart(tmp_path):
    source = "from strategies.greedy import Greedy\nclass Mine(Greedy):\n    '''Mine.'''\n    size = {}\n"
    (tmp_path / "other").mkdir()
    one, other = tmp_path / "mine.py", tmp_path / "other" / "mine.py"
    one.write_text(source.format(1))
    other.write_text(source.format(2))
    first = registry.find("strategy", f"{one}:Mine")
    assert registry.find("strategy", f"{other}:Mine").size == 2
    assert registry.find("strategy", f"{one}:Mine") is first
    one.write_text(source.format(3))
    assert registry.find("strategy", f"{one}:Mine").size == 3
    one.write_text("1 / 0")
    for _ in range(2):  # nothing half-made is kept
        with pytest.raises(UsageError, match="ZeroDivisionError"):
            registry.find("strategy", f"{one}:Mine")


@pytest.mark.parametrize(
    ("note", "kept"),
    [
        ({np.int64(3): [np.float32(0.5), np.bool_(True)]}, {"3": [0.5, True]}),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        ((1, {"a": (2, math.inf)}), [1, {"a": [2, math.inf]}]),
    ],
)
def test_notes_become_plain(note, kept):
    assert plain_notes(Outcome((), {"found": note}), "Mine") == {"found": kept}


@pytest.mark.parametrize(
    ("notes", "told"),
    [
        ({"found": object()}, r"The note 'found' of strategy 'Mine' is no JSON value \(it holds a object\)"),
        ({"found": [{"deep": lambda: 0}]}, "it holds a function"),
        ({"found": {object(): 1}}, "it holds a object"),
        ({"found": b"\xff"}, "utf-8"),
        ({"summary": np.arange(2)}, "The note 'summary' of strategy 'Mine' is no JSON value .*not a list of lines"),
        ([1], "The notes of strategy 'Mine' are of type list"),
    ],
)
def test_a_note_that_is_no_json_is_named(notes, told):
    with pytest.raises(UsageError, match=told):
        plain_notes(Outcome((), notes), "Mine")


def test_notes_of_numpy_are_kept_and_shown_again(chatty, searcher_command):
    first, again = (searcher_command("run", *RUN, "--format", "json") for _ in range(2))
    assert first.code == again.code == 0
    assert first.out == again.out
    assert json.loads(Path("runs/a/run.json").read_text())["outcome"]["notes"] == {"found": 3}


def test_a_note_that_is_no_json_is_refused_before_the_report_and_nothing_is_lost(chatty, searcher_command):
    done = searcher_command("run", *RUN, "--strategy-arg", "note=object()")
    assert done.code == 2
    assert "Error: The note 'found' of strategy 'Walk' is no JSON value (it holds a object)" in done.err
    lines = [json.loads(line) for line in Path("runs/a/evaluations.jsonl").read_text().splitlines()]
    assert {(line["split"], line["plan"]) for line in lines} == {("search", "dense"), ("search", "0")}
    mended = searcher_command("run", *RUN[:-1], "b", "--strategy-arg", "note=3")
    assert mended.code == 0
    assert "Measurements are shared with a" in mended.err
