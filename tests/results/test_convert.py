"""`searcher convert`, from the command line."""

import csv
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from tiny_checkpoint import OPTIONS

import searcher


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    options = {"model": str(tiny / "model"), "data": str(tiny / "text.jsonl"), "runs_dir": str(folder), **OPTIONS}
    for name, granularity in (("blocks", "block"), ("halves", "sublayer")):
        searcher.run(strategy="greedy", budget="1-2", name=name, granularity=granularity, quiet=True, **options)
    return folder


@pytest.fixture
def convert(searcher_command, runs):
    def call(*arguments):
        names = [str(runs / text) if text in ("blocks", "halves") else text for text in arguments]
        return searcher_command("convert", *names, defaults=False)

    return call


def test_several_runs_in_one_table(convert, tmp_path):
    done = convert("blocks", "halves", "-o", "evaluations.csv")
    assert done.code == 0, done.err
    with (tmp_path / "evaluations.csv").open() as file:
        table = list(csv.DictReader(file))
    assert done.out == f"Wrote {len(table)} evaluations to evaluations.csv\n"
    by_run = {name: [row for row in table if row["run"] == name] for name in ("blocks", "halves")}
    assert {name: len(rows) for name, rows in by_run.items()} == {"blocks": 1 + 6 + 5, "halves": 1 + 12 + 11}


def test_a_run_named_twice_is_listed_once(convert, tmp_path):
    assert convert("blocks", "blocks", "-o", "evaluations.csv").out == "Wrote 12 evaluations to evaluations.csv\n"


def test_a_recipe(convert, runs, tmp_path):
    done = convert("blocks", "-o", "plan.yaml", "--size", "1", "--model-name", "org/name")
    assert done.code == 0, done.err
    found = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    sources = [source for piece in found["slices"] for source in piece["sources"]]
    assert {source["model"] for source in sources} == {"org/name"}
    kept = {block for source in sources for block in range(*source["layer_range"])}
    plan = re.match(r"Wrote the recipe that removes (\d) to plan.yaml", done.out)
    assert plan is not None
    assert kept == set(range(6)) - {int(plan[1])}
    assert plan[1] == searcher.load_run(runs / "blocks").outcome["chosen"]["1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blocks"], "Convert to what?"),
        (["blocks", "-o", "x.xlsx"], "x.xlsx has no suffix of a table"),
        (["blocks", "-o", "missing/x.csv"], "missing/x.csv cannot be written"),
        (["blocks", "-o", "missing/x.yaml"], "missing/x.yaml cannot be written"),
        (["blocks", "-o", "x.csv", "--size", "1"], "--size and --model-name are for a mergekit recipe"),
        (["blocks", "halves", "-o", "x.yaml"], "of one run, not of 2"),
        (["blocks", "-o", "x.yaml", "--size", "3"], "chose no plan of size 3"),
        (["halves", "-o", "x.yaml", "--size", "1"], "mergekit cuts whole blocks only"),
        (["nowhere", "-o", "x.csv"], "nowhere is not a run folder"),
        (["blocks", "--optuna", "study.db"], "study.db is no database"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_line(convert, tmp_path, arguments, message):
    done = convert(*arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.iterdir())


def test_the_help_teaches(searcher_command):
    done = searcher_command("convert", "--help", defaults=False)
    assert done.code == 0
    for text in ("evaluations.parquet", "plan.yaml", "optuna-dashboard"):
        assert text in done.out


def test_the_commands_of_the_guide(searcher_command, runs, tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "exports.md").read_text()
    commands = re.findall(r"^searcher (convert .*)$", guide, flags=re.MULTILINE)
    assert len(commands) == 3
    for text in commands:
        line = text.replace("runs/greedy", str(runs / "blocks")).replace("runs/shapley", str(runs / "halves"))
        done = searcher_command(*line.split(), defaults=False)
        assert done.code == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {"evaluations.parquet", "plan.yaml", "study.db"}
    columns = pq.read_schema(tmp_path / "evaluations.parquet").names
    first = [
        names
        for row in guide.splitlines()
        if (names := re.findall(r"`([\w-]+)`", row.split("|")[1] if "|" in row else ""))
    ]
    documented = {name.replace("NAME", "perplexity") for names in first for name in names}
    assert documented == set(columns)
