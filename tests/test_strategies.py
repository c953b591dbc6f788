"""Every strategy from the command line, on a tiny checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import command

from searcher.contracts import registry
from searcher.contracts.plan import Granularity, PrunePlan

NAMES = sorted(registry.BUILT_IN["strategy"])
QUICK = {"optuna": ["--strategy-arg", "trials=20"], "random": ["--strategy-arg", "samples=8"]}


def run_json(call, *arguments, **environment):
    done = call("run", "--format", "json", *arguments, **environment)
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("granularity", list(Granularity))
def test_finds_a_plan_at_every_granularity(searcher_command, name, granularity):
    document = run_json(
        searcher_command, "--strategy", name, "--budget", "3", "--granularity", granularity, *QUICK.get(name, [])
    )
    plan = PrunePlan.parse(document["best"]["plan"])
    assert plan.size(granularity) == document["best"]["size"] == 3
    assert document["cost"]["charged"]["total"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_range_is_one_search_with_a_plan_of_every_size(searcher_command, name):
    document = run_json(searcher_command, "--strategy", name, "--budget", "1-3", *QUICK.get(name, []))
    chosen = json.loads((Path(document["run"]) / "run.json").read_text())["outcome"]["chosen"]
    assert [PrunePlan.parse(plan).size(Granularity.BLOCK) for plan in chosen.values()] == [1, 2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_holds_and_the_plan_has_the_full_size(searcher_command, name):
    document = run_json(
        searcher_command, "--strategy", name, "--budget", "3", "--max-evaluations", "4", *QUICK.get(name, [])
    )
    assert document["cost"]["charged"]["evaluations"] <= 4
    assert document["best"]["size"] == 3


@pytest.mark.parametrize("name", NAMES)
def test_limits_on_a_free_mix(searcher_command, name):
    options = ["--budget", "3", "--granularity", "sublayer", "--max-attention", "1", *QUICK.get(name, [])]
    plan = PrunePlan.parse(run_json(searcher_command, "--strategy", name, *options)["best"]["plan"])
    units = plan.units(Granularity.SUBLAYER)
    assert len(units) == 3
    assert sum(unit.part == "attn" for unit in units) <= 1


def test_a_block_and_its_two_sublayers_are_one_plan(searcher_command):
    """All of what blocks measured is known to a sublayer run of the same folder, and the other way round."""
    blocks = run_json(searcher_command, "--strategy", "exhaustive", "--budget", "2")
    start = blocks["best"]["plan"]
    options = ["--budget", "4", "--granularity", "sublayer", "--start", start, "--max-evaluations", "1"]
    sublayers = run_json(searcher_command, "--strategy", "local", *options)
    assert sublayers["best"]["plan"] == start
    assert sublayers["best"]["search"] == blocks["best"]["search"]
    assert sublayers["cost"]["executed"]["evaluations"] == 0


def test_a_search_goes_on_from_the_best_plan_of_a_run(searcher_command):
    first = run_json(searcher_command, "--strategy", "random", "--strategy-arg", "samples=2", "--budget", "3")
    second = run_json(searcher_command, "--strategy", "local", "--budget", "3", "--start", first["run"])
    assert second["config"]["start"] == first["best"]["plan"]
    assert second["best"]["search"]["perplexity"] <= first["best"]["search"]["perplexity"]


def test_the_certificate_of_an_exhaustive_search_bounds_all_others(searcher_command):
    best = run_json(searcher_command, "--strategy", "exhaustive", "--budget", "3")["best"]["search"]["perplexity"]
    for name in ("greedy", "portfolio", "shapley"):
        assert run_json(searcher_command, "--strategy", name, "--budget", "3")["best"]["search"]["perplexity"] >= best


def test_what_a_strategy_has_to_say_is_shown(searcher_command):
    assert "of resamples of the 4 windows" in searcher_command("run", "--budget", "2").out
    shown = searcher_command("run", "--strategy", "portfolio", "--budget", "2").out
    assert "In full: influence, influence by relative-l1, contiguous, greedy" in shown
    shown = searcher_command("run", "--strategy", "exhaustive", "--budget", "2").out
    assert "is the optimum of all 15 plans on the search windows" in shown


def test_what_each_strategy_costs_is_told_before(searcher_command):
    shown = searcher_command("list", "strategies", "--budget", "2", "--blocks", "6", defaults=False).out
    (greedy,) = [line for line in shown.splitlines() if "│ greedy" in line]
    assert "11" in greedy
    (exhaustive,) = [line for line in shown.splitlines() if "│ exhaustive" in line]
    assert "15" in exhaustive
    refused = searcher_command("list", "runs", "--budget", "2", defaults=False)
    assert refused.code == 2


@pytest.mark.parametrize(
    ("what", "option", "value"),
    [
        ("strategies", "--granularity", "ffn"),
        ("strategies", "--blocks", "12"),
        ("runs", "--granularity", "ffn"),
        ("strategies", "--runs-dir", "elsewhere"),
    ],
)
def test_an_option_that_a_list_would_ignore_is_refused(searcher_command, what, option, value):
    refused = searcher_command("list", what, option, value, defaults=False)
    assert refused.code == 2
    assert option in refused.err
    assert "eave it out" in refused.err


def test_statistics_are_kept_for_a_run_that_is_resumed(searcher_command, tmp_path, monkeypatch):
    document = run_json(searcher_command, "--strategy", "influence", "--strategy-arg", "metric=taylor", "--budget", "2")
    record = json.loads((tmp_path / document["run"] / "run.json").read_text())
    assert len(record["statistics"]["taylor"]) == 6
    monkeypatch.setattr("searcher.commands.run.find_statistics", lambda *_: pytest.fail("measured again"))
    again = run_json(searcher_command, "--strategy", "influence", "--strategy-arg", "metric=taylor", "--budget", "2")
    assert again["cost"]["charged"] == document["cost"]["charged"]


@pytest.mark.slow  # starts workers
@pytest.mark.parametrize("name", NAMES)
def test_the_same_plan_in_other_processes_with_and_without_workers(searcher_command, tiny, tmp_path, name):
    """With other hash seeds, and measured by Ray's actors."""
    options = ["--strategy", name, "--budget", "3", "--granularity", "sublayer", "--seed", "5", *QUICK.get(name, [])]
    documents = [run_json(searcher_command, *options)]
    started = [sys.executable, "-m", "searcher", "run", *command(tiny), *options, "--format", "json"]
    for hash_seed, workers in (("2", "0"), ("3", "2")):
        folder = tmp_path / hash_seed
        folder.mkdir()
        done = subprocess.run(
            [*started, "--workers", workers],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "2"},  # a core for each worker
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert ("2 workers" in done.stderr) == (workers == "2")
        documents.append(json.loads(done.stdout))
    found = [(document["best"], document["front"], document["cost"]["charged"]) for document in documents]
    assert found[0] == found[1] == found[2]
