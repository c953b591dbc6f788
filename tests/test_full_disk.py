"""A disk that is full: one line that says so, and nothing lost that was measured before."""

import errno
import os
from contextlib import contextmanager

import pytest

from searcher.contracts.plan import PrunePlan
from searcher.runs.files import replacing
from searcher.runs.journal import EVALUATIONS_FILE, Journal, read_evaluations
from searcher.runs.measurement import Measurement

LINE = Measurement("search", PrunePlan.parse("1"), "windows:0", (0, 1), {"loss": (1.0, 2.0)})


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def full_for_repairs(path):
    with replacing(path) as temporary:
        yield temporary
        full()


@pytest.fixture
def finished(searcher_command):
    assert searcher_command("run", "--budget", "1", "--strategy", "greedy", "--name", "one").code == 0


def test_a_repair_that_cannot_be_kept_costs_no_table(searcher_command, monkeypatch, tmp_path):
    arguments = ("heal", "--plan", "1-2", "--heal", "layer:steps=2", "--heal-windows", "8")
    with monkeypatch.context() as patch:
        patch.setattr("searcher.healing.store.replacing", full_for_repairs)
        first = searcher_command(*arguments)
    assert first.code == 0
    assert "layer:steps=2" in first.out
    assert first.err.count("could not be kept") == 2  # the plan's, and that of the dense model
    assert "disk is full" in first.err
    assert "Traceback" not in first.err
    assert list((tmp_path / "runs/healed").iterdir()) == []
    assert searcher_command(*arguments).code == 0  # there is room again
    assert len(list((tmp_path / "runs/healed").iterdir())) == 2


@pytest.mark.parametrize(
    ("writes", "command"),
    [
        ("searcher.runs.files.os.fsync", ("report", "runs/one", "-o", "page.html")),
        ("searcher.runs.files.os.fsync", ("report", "runs/one", "-o", "page.html", "--pictures", "pictures")),
        ("searcher.runs.files.os.fsync", ("convert", "runs/one", "-o", "plans.csv")),
        ("searcher.runs.files.os.fsync", ("convert", "runs/one", "-o", "plan.yaml")),
        ("pathlib.Path.mkdir", ("report", "runs/one", "-o", "page.html", "--pictures", "pictures")),
    ],
)
def test_a_file_of_a_users_that_does_not_fit(searcher_command, finished, monkeypatch, tmp_path, writes, command):
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(writes, full)
    done = searcher_command(*command, defaults=False)
    lines = done.err.splitlines()
    assert done.code == 2
    assert "No space left" in lines[-2]
    assert "disk is full: make room" in lines[-1]
    left = [path.name for path in tmp_path.iterdir() if path not in before]
    assert left == (["page.html"] if writes == "pathlib.Path.mkdir" else [])


@pytest.mark.parametrize(
    "writes", ["searcher.runs.journal.os.fsync", "searcher.runs.files.os.fsync"], ids=["evaluations.jsonl", "run.json"]
)
def test_a_search_that_does_not_fit_goes_on_once_there_is_room(searcher_command, monkeypatch, writes):
    arguments = ("run", "--budget", "2", "--strategy", "greedy", "--name", "one")
    with monkeypatch.context() as patch:
        patch.setattr(writes, full)
        stopped = searcher_command(*arguments)
    assert stopped.code == 1
    assert "No space left" in stopped.err.splitlines()[-2]
    assert "disk is full: make room" in stopped.err.splitlines()[-1]
    assert searcher_command(*arguments).code == 0


class NearlyFull:
    """Takes a few bytes without a word, and refuses the rest."""

    name = "evaluations.jsonl"

    def __init__(self, file):
        self.file, self.room = file, 10

    def write(self, content):
        taken = self.file.write(content[: self.room])
        self.room -= taken
        return taken or full()

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()


def test_a_line_of_which_a_part_fits_is_told_and_left_out(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append(LINE)
        journal._file = NearlyFull(journal._file)
        with pytest.raises(OSError, match=EVALUATIONS_FILE):
            journal.append(LINE)
    with Journal(tmp_path) as journal:
        journal.append(LINE)
    assert len(list(read_evaluations(tmp_path))) == 2
