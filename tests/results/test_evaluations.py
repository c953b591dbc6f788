"""Every evaluation as a table."""

import csv
import json
import math

import pyarrow.parquet as pq
import pytest
from tiny_checkpoint import OPTIONS

import searcher
from results.evaluations import rows, write_evaluations
from searcher.errors import UsageError

BREAKS = '''
import numpy as np
from objectives.loss import Loss

class Breaks(Loss):
    """The loss, without end where block 2 is gone."""
    def measure(self, candidate):
        lost = any(unit.block == 2 for unit in candidate.plan.removed)
        return np.full(len(candidate.rows), np.inf) if lost else super().measure(candidate)
'''


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """One with two objectives, one of them infinite for many plans, and one of another granularity."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "breaks.py").write_text(BREAKS)
    options = {"model": str(tiny / "model"), "data": str(tiny / "text.jsonl"), "runs_dir": str(folder), **OPTIONS}
    options |= {"strategy": "greedy", "budget": 2, "quiet": True}
    breaks = f"breaks={folder}/breaks.py:Breaks"
    blocks = searcher.run(name="blocks", objective=["perplexity", breaks], **options)
    return [blocks, searcher.run(name="ffn", granularity="ffn", objective=["perplexity", "kv-cache"], **options)]


def read(path):
    """Rows by column, with what is missing as None and numbers as floats."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    with path.open() as file:
        return [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]


def plain(value):
    """As every format gives it back."""
    try:
        number = float({"True": 1, "False": 0}.get(value, value))
    except (TypeError, ValueError):
        return value
    return "nan" if math.isnan(number) else number


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_every_format_holds_every_row_and_value(runs, tmp_path, suffix):
    path = tmp_path / f"evaluations.{suffix}"
    expected = [row for run in runs for row in rows(run)]
    assert write_evaluations(runs, path) == len(expected)
    found = read(path)
    columns = {name for row in expected for name in row}
    for row, wanted in zip(found, expected, strict=True):
        assert set(row) == columns
        assert {n: plain(v) for n, v in row.items()} == {n: plain(wanted.get(n)) for n in columns}
    assert [path] == list(tmp_path.iterdir())


def test_a_row_says_what_was_measured(runs):
    run = runs[0]
    table = {row["plan"]: row for row in rows(run)}
    assert set(table) == {str(plan) for plan in run.measurements.plans("search")}
    for evaluation in (run.dense, *run.chosen):
        row = table[str(evaluation.plan)]
        for name, report in evaluation.report.items():
            assert row[f"search_{name}"] == evaluation.search[name]
            assert [row[f"{kind}_{name}"] for kind in ("report", "low", "high")] == [
                report.value,
                report.low,
                report.high,
            ]
    assert {plan for plan, row in table.items() if row["chosen"]} == {str(e.plan) for e in run.chosen}
    assert {plan for plan, row in table.items() if row["on_front"]} == {str(e.plan) for e in run.front()}
    assert table["2"]["search_breaks"] == math.inf
    assert table["2"]["report_breaks"] is None
    assert table["2"]["search_perplexity"] < math.inf


def test_what_a_plan_removes_and_leaves(runs):
    table = {(row["run"], row["plan"]): row for run in runs for row in rows(run)}
    blocks = table[("blocks", str(runs[0].best.plan))]
    assert [blocks[f"removed_{part}"] for part in ("blocks", "attention", "ffn")] == [2, 2, 2]
    ffn = table[("ffn", str(runs[1].best.plan))]
    assert [ffn[f"removed_{part}"] for part in ("blocks", "attention", "ffn")] == [0, 0, 2]
    assert ffn["kv-cache"] == ffn["search_kv-cache"] == table[("ffn", "dense")]["kv-cache"]
    assert blocks["parameters"] < ffn["parameters"] < table[("blocks", "dense")]["parameters"]


def test_what_was_not_judged_has_no_report(runs):
    for row in rows(runs[0]):
        judged = row["chosen"] or row["on_front"] or row["plan"] == "dense"
        assert (row["report_perplexity"] is not None) is judged


@pytest.mark.parametrize("name", ["evaluations.xlsx", "evaluations", "missing/evaluations.csv", "folder.json"])
def test_what_cannot_be_written_is_refused_and_leaves_nothing(runs, tmp_path, name):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        write_evaluations(runs, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]


def test_a_failure_leaves_the_old_file(runs, tmp_path, monkeypatch):
    path = tmp_path / "evaluations.csv"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("results.evaluations.csv.DictWriter.writerows", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write_evaluations(runs, path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("evaluations.csv", "old")]
