"""Runs that are killed, interrupted or damaged: nothing finished is lost, nothing is measured twice."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import stepped
from tiny_checkpoint import OPTIONS, SLOW_OBJECTIVE, command, slow_run

import searcher
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.runs.journal import Journal, read_evaluations
from searcher.runs.measurement import Measurement

# children are forked from a server that has imported everything and computed nothing: they start at once
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "transformers", "searcher.commands.run", "results.run", "tiny_checkpoint"])


def journal_of(folder):
    return folder / "run" / "evaluations.jsonl"


def count_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed_after(tiny, folder, lines, rng):
    """Start the run and kill it when its journal has this many lines; False if it was done before that."""
    process = PROCESSES.Process(target=slow_run, args=(str(tiny), str(folder)))
    process.start()
    while process.is_alive() and count_lines(journal_of(folder)) < lines:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.01))  # anywhere between two lines, or in the middle of one
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def finish(tiny, folder):
    process = PROCESSES.Process(target=slow_run, args=(str(tiny), str(folder)))
    process.start()
    process.join()
    assert process.exitcode == 0
    return searcher.load_run(folder / "run").document()


def prepared(folder):
    folder.mkdir(exist_ok=True)
    (folder / "slow.py").write_text(SLOW_OBJECTIVE)
    return folder


def comparable(document):
    """All of a document that does not say where the run is or how long it took."""
    entries = json.dumps([document["dense"], document["best"], document["front"], document["cost"]["charged"]])
    return entries.replace(document["config"]["objective"][0], "objective")


def values_of(folder):
    """Every measured value of a run: what may not depend on when it was killed, to the last bit."""
    values = {}
    for line in read_evaluations(folder / "run"):
        (numbers,) = line.values.values()
        for row, number in zip(line.rows, numbers, strict=True):
            key = (line.split, line.plan, line.group, row)
            assert key not in values, "measured twice"
            values[key] = number
    return values


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    folder = prepared(tmp_path_factory.mktemp("undisturbed"))
    document = finish(tiny, folder)
    return document, values_of(folder)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_killed_at_random_moments_it_ends_the_same_and_runs_nothing_again(tiny, tmp_path, undisturbed, seed):
    document, values = undisturbed
    total = len({key[:3] for key in values})  # lines
    rng, folder = random.Random(seed), prepared(tmp_path / "a")
    moments = sorted(rng.sample(range(total - 5), 5))  # four runs, five kills each
    kills = partly = 0
    for lines in moments:
        before = journal_of(folder).read_bytes() if journal_of(folder).exists() else b""
        kills += killed_after(tiny, folder, lines, rng)
        after = journal_of(folder).read_bytes() if journal_of(folder).exists() else b""
        assert after.startswith(before[: before.rfind(b"\n") + 1])  # only a torn line may go
        groups = Counter(line.plan for line in read_evaluations(folder / "run") if line.split == "search")
        partly += 1 in groups.values()
    assert kills >= 4  # a kill may come too late on a busy machine
    assert partly  # kills came between the groups of windows of a plan, too
    assert comparable(finish(tiny, folder)) == comparable(document)
    assert values_of(folder) == values
    assert count_lines(journal_of(folder)) == total


def heal_in_rounds(folder, runs_dir):
    """A run whose six plans are healed in three rounds; for a process of its own."""
    os.chdir(runs_dir)
    searcher.run(
        model=f"{folder}/model",
        data=f"{folder}/text.jsonl",
        objective=f"{stepped.__file__}:Length",
        strategy="exhaustive",
        budget=1,
        heal=f"{stepped.__file__}:Stepped:steps=8",
        heal_windows=12,
        heal_top=6,
        heal_rounds=3,
        name="run",
        runs_dir=".",
        quiet=True,
        **OPTIONS,
    )


def test_killed_in_the_middle_of_the_second_round_of_healing_it_heals_nothing_twice(tiny, tmp_path):
    """It dies as it heals a plan, of which alone the healing is lost."""
    (tmp_path / stepped.DEATH).write_text("1 4")
    for ends in (-signal.SIGKILL, 0):
        process = PROCESSES.Process(target=heal_in_rounds, args=(str(tiny), str(tmp_path)))
        process.start()
        process.join()
        assert process.exitcode == ends
        (tmp_path / stepped.DEATH).unlink(missing_ok=True)
    begun = Counter((tmp_path / stepped.LOG).read_text().splitlines())
    assert {told for told, times in begun.items() if times > 1} == {"1 4"}
    assert begun["1 4"] == 2
    assert Counter(told.split()[1] for told in begun) == {"2": 6, "4": 3, "8": 3}
    values_of(tmp_path)  # nothing was measured twice
    outcome = json.loads((tmp_path / "run/run.json").read_text())["outcome"]
    assert outcome["shortlists"] == {"1": ["0", "5"]}
    assert [len(one["healed"]["1"]) for one in outcome["rounds"]] == [6, 3, 2]


def test_a_torn_last_line_is_forgiven_wherever_it_was_torn(searcher_command):
    arguments = ["run", "--strategy", "greedy", "--budget", "2", "--name", "run", "--format", "json"]
    document = json.loads(searcher_command(*arguments).out)
    journal = Path("runs/run/evaluations.jsonl")
    whole, values = journal.read_bytes(), values_of(Path("runs"))
    last = len(whole) - whole[:-1].rfind(b"\n") - 1
    for cut in (1, 2, 40, last - 1):  # only the newline is missing, …, only one byte is there
        journal.write_bytes(whole[:-cut])
        assert len(list(read_evaluations(journal.parent))) == len(whole.splitlines()) - 1
        resumed = json.loads(searcher_command(*arguments).out)
        assert comparable(resumed) == comparable(document)
        assert journal.read_bytes().startswith(whole[:-last])
        assert values_of(Path("runs")) == values
    journal.write_bytes(whole + b'{"split": "sea')
    assert json.loads(searcher_command(*arguments).out) == document
    assert journal.read_bytes() == whole


def test_killed_after_the_last_measurement_it_measures_nothing(searcher_command):
    arguments = ["run", "--strategy", "shapley", "--budget", "2", "--name", "run", "--format", "json"]
    document = json.loads(searcher_command(*arguments).out)
    journal, record = Path("runs/run/evaluations.jsonl"), Path("runs/run/run.json")
    whole, finished = journal.read_bytes(), json.loads(record.read_text())
    record.write_text(json.dumps({name: value for name, value in finished.items() if name != "outcome"}))
    record.with_suffix(".tmp").write_text("{")  # the next run.json was being written
    Path("runs/run/front.csv").unlink()
    assert json.loads(searcher_command(*arguments).out) == document
    assert journal.read_bytes() == whole
    assert json.loads(record.read_text()) == finished
    assert Path("runs/run/front.csv").exists()


def test_killed_before_the_first_measurement_it_starts_again(searcher_command):
    arguments = ["run", "--strategy", "shapley", "--budget", "2", "--name", "run"]
    Path("runs/run").mkdir(parents=True)
    Path("runs/run/evaluations.jsonl").touch()
    Path("runs/run/.lock").touch()
    assert searcher_command(*arguments).code == 0
    assert searcher.load_run("runs/run").best.size == 2


def line(plan="3"):
    return Measurement("search", PrunePlan.parse(plan), "windows:0", (0,), {"loss": (1.5,)})


@pytest.mark.parametrize("damage", [b"{}\n", b"not json\n", b'{"split": 3\n', b"\x00\xff\n", b"[]\n"])
def test_a_damaged_line_is_named(tmp_path, damage):
    with Journal(tmp_path) as journal:
        journal.append(line())
    path = tmp_path / "evaluations.jsonl"
    path.write_bytes(path.read_bytes() + damage + path.read_bytes())
    with pytest.raises(UsageError, match=r"evaluations\.jsonl, line 2 is not a measurement"):
        list(read_evaluations(tmp_path))


def test_infinity_and_nan_are_kept_as_what_they_are(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append(Measurement("search", PrunePlan(), "windows:0", (0, 1), {"loss": (float("inf"), float("nan"))}))
    text = (tmp_path / "evaluations.jsonl").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (again,) = read_evaluations(tmp_path)
    assert str(again.values["loss"]) == "(inf, nan)"


def test_a_second_writer_is_refused(tmp_path):
    with Journal(tmp_path), pytest.raises(UsageError, match="is being written by another searcher"):
        Journal(tmp_path).__enter__()
    with Journal(tmp_path) as journal:  # and let in when the first has gone
        journal.append(line())


def test_an_unfinished_run_cannot_be_read_as_a_finished_one(tiny, tmp_path):
    folder = prepared(tmp_path / "a")
    assert killed_after(tiny, folder, 5, random.Random(0))
    with pytest.raises(UsageError, match="is not finished"):
        searcher.load_run(folder / "run")
    with pytest.raises(UsageError, match="is not a run folder"):
        searcher.load_run(tmp_path / "none")


@pytest.mark.usefixtures("children_heed_ctrl_c")
def test_interrupted_it_exits_130_and_goes_on(searcher_command, tiny, tmp_path):
    prepared(tmp_path)
    arguments = [
        "--objective",
        "slow.py:Slow",
        "--objective-arg",
        "seconds=0.01",
        "--strategy",
        "greedy",
        "--granularity",
        "sublayer",
    ]
    arguments += ["--budget", "6", "--name", "run"]
    started = [sys.executable, "-m", "searcher", "run", *command(tiny), *arguments]
    process = subprocess.Popen(started, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = journal_of(tmp_path / "runs")
    while process.poll() is None and count_lines(journal) < 10:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert out == ""
    kept = journal.read_bytes()
    assert kept.count(b"\n") >= 10
    again = searcher_command("run", *arguments)
    assert again.code == 0
    assert "known from before" in again.err
    assert journal.read_bytes().startswith(kept)  # not even the last line was torn
    resumed = searcher.load_run("runs/run").document()
    fresh = searcher_command("run", *arguments, "--name", "fresh")
    assert fresh.code == 0
    assert comparable(resumed) == comparable(searcher.load_run("runs/fresh").document())


def test_a_full_disk_is_told_and_loses_nothing(searcher_command, tmp_path, monkeypatch):
    import searcher.runs.journal

    left = iter(range(4))

    def fsync(_file):
        if next(left, None) is None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(searcher.runs.journal.os, "fsync", fsync)
    done = searcher_command("run", "--budget", "2", "--strategy", "greedy", "--name", "a")
    assert done.code == 1
    assert "Error: [Errno 28] No space left on device" in done.err
    assert "Traceback" not in done.err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    kept = (tmp_path / "runs/a/evaluations.jsonl").read_bytes()
    assert kept.count(b"\n") >= 2
    assert searcher_command("run", "--budget", "2", "--strategy", "greedy", "--name", "a").code == 0
    assert (tmp_path / "runs/a/evaluations.jsonl").read_bytes().startswith(kept)
