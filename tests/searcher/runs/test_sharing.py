"""Runs in one folder share what they measured; each still pays in full."""

import json
from pathlib import Path

import pytest

from searcher.runs.journal import read_evaluations


def run(command, *arguments):
    done = command("run", "--format", "json", "--budget", "3", *arguments)
    assert done.code == 0, done.err
    return json.loads(done.out), done.err


def lines_of(document):
    return list(read_evaluations(Path(document["run"])))


def scores(document, split):
    """By plan and group, every number as it was journaled."""
    return {(line.plan, line.group, line.rows): line.values for line in lines_of(document) if line.split == split}


@pytest.fixture
def outcome_alone(searcher_command):
    document, _ = run(searcher_command, "--strategy", "greedy", "--runs-dir", "alone")
    return document


def test_what_another_run_measured_is_taken_over_and_charged_for(searcher_command, outcome_alone):
    first, _ = run(searcher_command, "--strategy", "random", "--strategy-arg", "samples=20")
    second, log = run(searcher_command, "--strategy", "greedy")
    assert f"Measurements are shared with {first['run'].removeprefix('runs/')}" in log
    taken_over = [line for line in lines_of(second) if line.run]
    assert {line.run for line in taken_over} == {first["run"].removeprefix("runs/")}
    assert {"search", "report"} == {line.split for line in taken_over}
    assert all(line.layer_forwards == line.heads == line.seconds == 0 for line in taken_over)
    # nothing but the work is different from a run alone
    for key in ("best", "front", "dense"):
        assert second[key] == outcome_alone[key]
    assert second["cost"]["charged"] == outcome_alone["cost"]["charged"]
    assert second["cost"]["executed"]["evaluations"] < outcome_alone["cost"]["executed"]["evaluations"]
    assert scores(second, "search") == scores(outcome_alone, "search")


def test_a_run_stays_whole_without_the_others(searcher_command, tmp_path):
    first, _ = run(searcher_command, "--strategy", "greedy", "--name", "first")
    second, _ = run(searcher_command, "--strategy", "random", "--name", "second")
    for file in (tmp_path / "runs" / "first").iterdir():
        file.unlink()
    before = len(lines_of(second))
    again, _ = run(searcher_command, "--strategy", "random", "--name", "second")
    assert again["best"] == second["best"]
    assert len(lines_of(again)) == before
    assert first["dense"] == again["dense"]


@pytest.mark.parametrize("option", [("--data-seed", "1"), ("--windows", "3"), ("--objective", "loss")])
def test_runs_that_measure_something_else_are_not_asked(searcher_command, option):
    run(searcher_command, "--strategy", "greedy", "--name", "first")
    second, log = run(searcher_command, "--strategy", "greedy", "--name", "second", *option)
    assert "shared" not in log
    assert not any(line.run for line in lines_of(second))


def test_a_damaged_run_is_passed_over(searcher_command, tmp_path):
    run(searcher_command, "--strategy", "greedy", "--name", "first")
    journal = tmp_path / "runs" / "first" / "evaluations.jsonl"
    journal.write_text(journal.read_text() + "no line\n")
    second, log = run(searcher_command, "--strategy", "greedy", "--name", "second")
    assert "shared" not in log
    assert not any(line.run for line in lines_of(second))
