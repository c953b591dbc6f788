"""The command line, end to end, on a tiny checkpoint."""

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import OPTIONS, command, save_tiny_checkpoint, write_text

import searcher
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.runs.journal import Journal, read_evaluations


def run_json(call, *arguments):
    done = call("run", "--format", "json", *arguments)
    assert done.code == 0, done.err
    return json.loads(done.out)


def strict_json(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def without(document, *keys):
    return {key: value for key, value in document.items() if key not in keys}


@pytest.mark.parametrize("strategy", ["greedy", "shapley", "random"])
def test_the_document_keeps_its_contract(searcher_command, strategy):
    document = run_json(
        searcher_command, "--strategy", strategy, "--budget", "3", "--objective", "perplexity", "--objective", "loss"
    )
    assert set(document) == {"run", "config", "dense", "best", "front", "cost"}
    for entry in (document["dense"], document["best"], *document["front"]):
        assert set(entry) == {"plan", "size", "search", "report"}
        assert set(entry["search"]) == set(entry["report"]) == {"perplexity", "loss"}
        for estimate in entry["report"].values():
            assert set(estimate) == {"value", "low", "high"}
            assert estimate["low"] < estimate["value"] < estimate["high"]
        assert entry["search"]["perplexity"] == pytest.approx(math.exp(entry["search"]["loss"]))
        assert entry["report"]["perplexity"]["value"] == pytest.approx(math.exp(entry["report"]["loss"]["value"]))
        assert PrunePlan.parse(entry["plan"]).size(Granularity.BLOCK) == entry["size"]
    assert document["dense"]["plan"] == "dense"
    assert document["best"]["size"] == 3
    assert document["best"] in document["front"]
    sizes = [entry["size"] for entry in document["front"]]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 3
    assert set(document["cost"]) == {"charged", "executed", "seconds"}
    for kind in ("charged", "executed"):
        assert set(document["cost"][kind]) == {"evaluations", "layer_forwards", "heads", "total"}
        assert document["cost"][kind]["total"] > document["cost"][kind]["layer_forwards"] * 16 / 1000  # and the heads
    assert document["cost"]["seconds"] > 0
    assert document["config"]["strategy"] == strategy
    assert document["config"]["windows"] == OPTIONS["windows"]


def test_the_run_folder_holds_what_was_printed(searcher_command):
    document = run_json(searcher_command, "--strategy", "greedy", "--budget", "3")
    folder = Path(document["run"])
    with (folder / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, entry in zip(rows, [document["dense"], *document["front"]], strict=True):
        report = entry["report"]["perplexity"]
        assert (row["plan"], int(row["size"])) == (entry["plan"], entry["size"])
        assert float(row["search_perplexity"]) == entry["search"]["perplexity"]
        numbers = [float(row[f"{kind}_perplexity"]) for kind in ("report", "low", "high")]
        assert numbers == [report["value"], report["low"], report["high"]]
    lines = list(read_evaluations(folder))
    searched = {line.plan for line in lines if line.split == "search"}
    assert len(searched) == 6 + 5 + 4 + 1
    losses = {
        line.plan: sum(line.values["perplexity"]) / 4
        for line in lines
        if line.split == "search" and line.plan.size(Granularity.BLOCK) == 3
    }
    assert document["best"]["plan"] == str(min(losses, key=losses.get))
    assert document["best"]["search"]["perplexity"] == pytest.approx(math.exp(min(losses.values())))
    # greedy on 6 blocks as a trie, per window, and a head a plan
    charged = document["cost"]["charged"]
    assert charged["evaluations"] == 15
    assert charged["heads"] == 15 * 4
    # the states of the round before are kept, so that less is run than a trie of each round would take
    executed = [line.layer_forwards for line in lines if line.split == "search" and str(line.plan) != "dense"]
    assert document["cost"]["executed"]["layer_forwards"] == sum(executed) < charged["layer_forwards"]
    record = json.loads((folder / "run.json").read_text())
    assert record["outcome"]["repeatable"]
    assert record["versions"]["torch"]


def test_the_table_goes_to_stdout_and_all_else_to_stderr(searcher_command):
    done = searcher_command("run", "--strategy", "greedy", "--budget", "2")
    assert done.code == 0
    assert "report perplexity (95% interval)" in done.out
    assert "Kept in runs/greedy-block-2-" in done.out
    assert "Searching 6 units for 2 to remove: about 11 plans, cost " in done.err
    assert "Searching" not in done.out


def test_the_same_command_again_measures_nothing_and_prints_the_same(searcher_command):
    first = run_json(searcher_command, "--strategy", "shapley", "--budget", "3")
    journal = Path(first["run"]) / "evaluations.jsonl"
    before = journal.read_bytes()
    assert run_json(searcher_command, "--strategy", "shapley", "--budget", "3") == first
    assert journal.read_bytes() == before


@pytest.mark.parametrize("strategy", ["shapley", pytest.param("random", marks=pytest.mark.slow)])
def test_same_seed_same_plans_in_a_fresh_process(searcher_command, tiny, strategy):
    arguments = ["--strategy", strategy, "--budget", "3", "--seed", "7", "--format", "json"]
    done = searcher_command("run", *arguments)
    theirs = subprocess.run(
        [sys.executable, "-m", "searcher", "run", *command(tiny), *arguments, "--runs-dir", "elsewhere"],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours, document = json.loads(done.out), json.loads(theirs.stdout)  # stdout holds nothing else
    assert without(document, "run", "config", "cost") == without(ours, "run", "config", "cost")
    assert document["cost"]["charged"] == ours["cost"]["charged"]
    assert "Searching 6 units for 3 to remove" in theirs.stderr


def test_seeds_change_the_search_and_never_the_report_text(searcher_command):
    documents = [
        run_json(searcher_command, "--strategy", "random", "--strategy-arg", "samples=1", "--budget", "3", *seeds)
        for seeds in ([], ["--seed", "1"], ["--data-seed", "1"])
    ]
    dense = [d["dense"] for d in documents]
    assert dense[0]["report"] == dense[1]["report"] == dense[2]["report"]
    assert dense[0]["search"] == dense[1]["search"] != dense[2]["search"]
    assert documents[0]["best"]["plan"] != documents[1]["best"]["plan"]


@pytest.mark.parametrize("strategy", ["greedy", "shapley", "random"])
def test_limits_hold_and_may_grow(searcher_command, strategy):
    def limited(*limits):
        return run_json(searcher_command, "--strategy", strategy, "--budget", "3", "--name", "a", *limits)

    small = limited("--max-evaluations", "9")
    assert small["cost"]["charged"]["evaluations"] <= 9
    assert small["best"]["size"] == 3
    journal = Path("runs/a/evaluations.jsonl").read_bytes()
    full = limited()
    assert Path("runs/a/evaluations.jsonl").read_bytes().startswith(journal)
    fresh = run_json(searcher_command, "--strategy", strategy, "--budget", "3", "--name", "b")
    assert full["best"] == fresh["best"]
    assert full["cost"]["charged"] == fresh["cost"]["charged"]
    shrunk = searcher_command("run", "--strategy", strategy, "--budget", "3", "--name", "a", "--max-evaluations", "5")
    assert shrunk.code == 2
    assert "max_evaluations unlimited, now 5" in shrunk.err


def test_a_cost_limit_holds(searcher_command):
    full = run_json(searcher_command, "--strategy", "greedy", "--budget", "3")["cost"]["charged"]["total"]
    limited = ["--strategy", "greedy", "--budget", "3", "--max-cost", f"{full / 2}", "--name", "limited"]
    document = run_json(searcher_command, *limited)
    assert document["cost"]["charged"]["total"] <= full / 2
    assert document["best"]["size"] == 3
    done = searcher_command("run", *limited)
    assert "Stopped early: cost limit." in done.out


@pytest.mark.parametrize("strategy", ["greedy", "shapley", "random"])
def test_no_strategy_passes_a_limit_however_small(searcher_command, strategy):
    arguments = ["--strategy", strategy, "--budget", "3"]
    none = searcher_command("run", *arguments, "--max-evaluations", "0.9")
    assert none.code == 2
    assert lines_of(none.err)[0] == "Error: Not even one plan fits the evaluation limit"
    for limit in (1, 2, 7):  # of the same run: a limit may grow
        document = run_json(searcher_command, *arguments, "--max-evaluations", limit)
        assert document["cost"]["charged"]["evaluations"] <= limit
        assert document["best"]["size"] == 3
    assert searcher_command("run", *arguments, "--max-cost", "1e-3", "--name", "a").code == 2
    for limit in (0.5, 1):
        document = run_json(searcher_command, *arguments, "--max-cost", limit, "--name", "a")
        assert document["cost"]["charged"]["total"] <= limit
        assert document["best"]["size"] == 3


def test_a_timeout_still_gives_a_plan_of_the_full_size(searcher_command):
    done = searcher_command("run", "--strategy", "greedy", "--budget", "3", "--timeout", "0.001s", "--format", "json")
    assert done.code == 0
    assert json.loads(done.out)["best"]["size"] == 3
    assert json.loads(Path(json.loads(done.out)["run"], "run.json").read_text())["outcome"]["stopped"] == "timeout"


@pytest.mark.parametrize(
    ("granularity", "plan"), [("attention", r"\d\.attn,\d\.attn"), ("ffn", r"\d\.ffn,\d\.ffn"), ("sublayer", r".+")]
)
def test_granularities(searcher_command, granularity, plan):
    document = run_json(searcher_command, "--strategy", "greedy", "--budget", "2", "--granularity", granularity)
    assert re.fullmatch(plan, document["best"]["plan"])
    assert PrunePlan.parse(document["best"]["plan"]).size(Granularity(granularity)) == 2


def test_budgets_and_kept_units(searcher_command):
    assert run_json(searcher_command, "--strategy", "greedy", "--budget", "50%")["best"]["size"] == 3
    document = run_json(searcher_command, "--strategy", "random", "--budget", "1-3", "--keep", "0,5")
    removed = [PrunePlan.parse(e["plan"]) for e in document["front"]]
    assert document["best"]["size"] == 3
    assert not any({0, 5} & {unit.block for unit in plan.removed} for plan in removed)


def test_a_configuration_file_and_options_that_win(searcher_command):
    Path("c.yaml").write_text("strategy: random\nbudget: 3\nstrategy-args: {samples: 4}\nseed: 3\n")
    document = run_json(searcher_command, "--config", "c.yaml", "--budget", "2")
    assert (document["config"]["strategy"], document["config"]["seed"], document["best"]["size"]) == ("random", 3, 2)
    assert document["cost"]["charged"]["evaluations"] == 4
    Path("d.yaml").write_text("strategy: random\nbudget: 2\nobjective: loss\nkeep: [0, 5]\nstrategy-args:\n")
    document = run_json(searcher_command, "--config", "d.yaml", "--strategy-arg", "samples=5")
    assert (document["config"]["objective"], document["config"]["keep"]) == (["loss"], "0,5")
    assert document["cost"]["charged"]["evaluations"] == 5
    done = searcher_command("run", "--config", "d.yaml", "--strategy-arg", "samples=5", "--objective-arg", "x=1")
    assert lines_of(done.err)[0] == "Error: Unknown option 'x' of objective 'loss'"


def test_options_of_an_objective_in_the_file_and_on_the_command_line(searcher_command, tmp_path):
    write_plugins(tmp_path)
    (tmp_path / "mine.py").rename("my-own.py")
    Path("c.yaml").write_text(
        "budget: 1\nobjective: [my-own.py:TopOne, loss]\nobjective-args: {my-own.py:TopOne: {fail_on: x, times: 2}}\n"
    )
    document = run_json(searcher_command, "--config", "c.yaml", "--objective-arg", "my-own.py:TopOne:fail-on=y")
    assert document["config"]["objective_args"] == {"my-own.py:TopOne": {"fail_on": "y", "times": 2}}
    done = searcher_command("run", "--config", "c.yaml", "--objective-arg", "fail_on=y")
    assert "--objective-arg 'fail_on=y' could be meant for any of my-own.py:TopOne, loss" in done.err


def test_evaluate_gives_what_the_run_reported_in_the_order_asked(searcher_command):
    document = run_json(searcher_command, "--strategy", "greedy", "--budget", "2")
    plans = [document["best"]["plan"], "dense", "4.attn,1", document["best"]["plan"]]
    flags = [text for plan in plans for text in ("--plan", plan)]
    for split in ("report", "search"):
        done = searcher_command("evaluate", *flags, "--split", split, "--format", "json")
        assert done.code == 0, done.err
        evaluations = json.loads(done.out)["evaluations"]
        assert [e["plan"] for e in evaluations] == [plans[0], "dense", "1,4.attn", plans[0]]
        assert [e["size"] for e in evaluations] == [4, 0, 3, 4]  # in sublayers, since one plan removes one
        for measured, entry in zip(evaluations, (document["best"], document["dense"]), strict=False):
            told = entry["report"]["perplexity"]["value"] if split == "report" else entry["search"]["perplexity"]
            assert measured["values"] == {"perplexity": told}
    assert "dense" in searcher_command("evaluate", "--plan", "dense").out


def test_lists(searcher_command):
    strategies = searcher_command("list", "strategies", defaults=False).out
    assert all(name in strategies for name in ("greedy", "shapley", "random"))
    verbose = searcher_command("list", "strategies", "--verbose", defaults=False).out
    assert "--strategy-arg samples=…  int, default 64" in verbose
    assert "arXiv:2402.09025" in verbose
    assert "perplexity" in searcher_command("list", "objectives", defaults=False).out
    assert "No runs" in searcher_command("list", "runs", defaults=False).out
    run_json(searcher_command, "--strategy", "greedy", "--budget", "1", "--name", "mine")
    assert "mine" in searcher_command("list", "runs", defaults=False).out


def test_the_python_interface(tiny, tmp_path):
    options = {"model": str(tiny / "model"), "data": str(tiny / "text.jsonl"), "runs_dir": str(tmp_path), **OPTIONS}
    run = searcher.run(strategy="greedy", budget=2, keep=[0], quiet=True, **options)
    assert run.best.size == 2
    assert run.best in run.front()
    assert searcher.load_run(run.folder).document() == run.document()
    del options["runs_dir"]
    told = searcher.evaluate([str(run.best.plan)], quiet=True, **options)["evaluations"]
    assert told[0]["values"]["perplexity"] == run.best.report["perplexity"].value
    with pytest.raises(searcher.UsageError, match="Unknown option 'budgt'"):
        searcher.run(budgt=2)


def write_plugins(folder):
    (folder / "mine.py").write_text(
        '''
import numpy as np
from dataclasses import dataclass
from searcher.contracts.objective import Objective
from searcher.contracts.plan import PrunePlan
from searcher.contracts.strategy import Ask, Outcome, Strategy

class TopOne(Objective):
    """Share of tokens ranked first."""
    unit = "share"
    lower_is_better = False
    def __init__(self, fail_on: str = "", times: int = 1):
        self.fail_on, self.times = fail_on, times
    def prepare(self, dense):
        if self.fail_on == "prepare":
            raise ValueError("two\\nlines")
    def measure(self, candidate):
        if str(candidate.plan) == self.fail_on:
            raise KeyError("of mine")
        pairs = zip(candidate.ids, candidate.logits())
        return np.array([(z[:-1].argmax(-1) == y[1:]).double().mean().item() for y, z in pairs])

@dataclass(frozen=True)
class Last(Strategy):
    """The last units."""
    offset: int = 0
    def search(self, space):
        end = len(space.units) - self.offset
        plans = tuple(PrunePlan.of(space.units[end - k:end]) for k in range(1, space.size + 1))
        yield Ask(plans)
        return Outcome(plans[::-1])
'''
    )
    (folder / "broken.py").write_text("1 / 0\n")


def test_strategies_and_objectives_of_the_users_own(searcher_command, tmp_path):
    write_plugins(tmp_path)
    document = run_json(
        searcher_command, "--strategy", "mine.py:Last", "--strategy-arg", "offset=1", "--budget", "2",
        "--objective", "mine.py:TopOne", "--objective", "loss",
    )  # fmt: skip
    assert document["best"]["plan"] == "3-4"
    assert 0 <= document["best"]["report"]["mine.py:TopOne"]["value"] <= 1
    assert document["best"]["search"]["loss"] > 0


def test_an_objective_that_fails_loses_nothing(searcher_command, tmp_path):
    write_plugins(tmp_path)
    arguments = ["--strategy", "greedy", "--budget", "2", "--objective", "mine.py:TopOne", "--name", "a"]
    done = searcher_command("run", *arguments, "--objective-arg", "fail_on=3")
    assert done.code == 2
    assert "Objective 'mine.py:TopOne' failed on plan 3: KeyError: 'of mine'" in done.err
    assert "Traceback" not in done.err
    before = list(read_evaluations(Path("runs/a")))
    assert 1 <= len(before) < 7
    assert searcher_command("run", *arguments, "--objective-arg", "fail_on=3").code == 2
    assert list(read_evaluations(Path("runs/a"))) == before  # nothing was measured again
    assert "objective_args was" in searcher_command("run", *arguments).err  # what is measured has changed
    assert run_json(searcher_command, *arguments, "--name", "b")["best"]["size"] == 2
    done = searcher_command("run", *arguments, "--objective-arg", "fail_on=prepare", "--name", "c")
    assert done.code == 2
    assert lines_of(done.err)[0].endswith("failed to prepare for the search split: ValueError: two lines")


def test_an_objective_whose_source_changed_is_another_one(searcher_command, tmp_path):
    write_plugins(tmp_path)
    arguments = ["--strategy", "greedy", "--budget", "1", "--objective", "mine.py:TopOne", "--name", "a"]
    run_json(searcher_command, *arguments)
    source = (tmp_path / "mine.py").read_text()
    (tmp_path / "mine.py").write_text(source.replace("z[:-1].argmax", "z[:-1].argmin"))
    done = searcher_command("run", *arguments)
    assert done.code == 2
    assert "another configuration: objective 'mine.py:TopOne': mine.py has changed since" in done.err


def test_a_plan_that_breaks_the_model_is_a_result_and_written_as_valid_json(searcher_command, tmp_path):
    (tmp_path / "fragile.py").write_text(
        """
import numpy as np
from objectives.loss import Perplexity

class Fragile(Perplexity):
    def measure(self, candidate):
        return super().measure(candidate) + (0.0, 900.0, np.inf, np.inf)[len(candidate.plan.removed)]
"""
    )
    name = "fragile.py:Fragile"
    done = searcher_command("run", "--strategy", "greedy", "--budget", "1-3", "--objective", name, "--format", "json")
    document = strict_json(done.out)
    assert document["best"]["search"] == {name: "inf"}
    assert document["best"]["report"] == {name: {"value": "inf", "low": None, "high": None}}
    folder = Path(document["run"])
    assert [step["score"] for step in strict_json((folder / "run.json").read_text())["outcome"]["notes"]["steps"]][
        1:
    ] == ["inf", "inf"]
    for line in (folder / "evaluations.jsonl").read_text().splitlines():
        strict_json(line)
    values = [entry.search[name] for entry in searcher.load_run(folder).chosen]
    assert str(values) == "[inf, inf, inf]"
    assert "Warning" not in done.err


SPOILT = """
import numpy as np
from objectives.loss import Loss

class Spoilt(Loss):
    \'\'\'Goes wrong when block 3 is gone.\'\'\'
    unit = "nats"
    def measure(self, candidate):
        rows = super().measure(candidate)
        return RESULT if str(candidate.plan) == "3" else rows
"""


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("rows * np.nan", "returned NaN for plan 3, under which the model is sound"),
        ("rows[:1]", "returned shape (1,) for plan 3"),
        ("['many'] * len(rows)", "failed on plan 3: ValueError"),
        ("None", "returned shape () for plan 3"),
        ("{}['x']", "failed on plan 3: KeyError: 'x'"),
    ],
)
def test_an_objective_that_goes_wrong_is_named_with_the_plan_and_nothing_is_lost(
    searcher_command, tmp_path, result, told
):
    (tmp_path / "spoilt.py").write_text(SPOILT.replace("RESULT", result))
    name = "spoilt.py:Spoilt"
    done = searcher_command("run", "--strategy", "greedy", "--budget", "2", "--objective", name, "--name", "x")
    assert done.code == 2
    assert f"Objective '{name}' {told}" in done.err
    assert "Traceback" not in done.err
    plans = {line.plan for line in read_evaluations(tmp_path / "runs" / "x")}
    assert {PrunePlan(), PrunePlan.parse("0")} <= plans
    assert PrunePlan.parse("3") not in plans


def test_several_objectives_give_a_front_and_weights_a_sum(searcher_command):
    named = ["--objective", "perplexity", "--objective", "kv-cache", "--granularity", "sublayer", "--budget", "1-4"]
    found = run_json(searcher_command, "--strategy", "optuna", "--strategy-arg", "sampler=nsga2", *named)
    run = searcher.load_run(found["run"])
    values = {}
    for plan in run.measurements.plans("search"):
        if plan.removed:
            rows = [run.measurements.rows("search", plan, label) for label in ("perplexity", "kv-cache")]
            values[plan] = tuple(float(np.mean(numbers)) for numbers in rows)
    best = {
        plan
        for plan, point in values.items()
        if not any(o != point and o[0] <= point[0] and o[1] <= point[1] for o in values.values())
    }
    assert {PrunePlan.parse(entry["plan"]) for entry in found["front"]} == best
    assert len(best) > 1
    for entry in found["front"]:
        assert entry["report"]["perplexity"]["low"] is not None
    weights = ["--weight", "perplexity=1e-6", "--weight", "kv-cache=1"]
    small = run_json(searcher_command, "--strategy", "greedy", *named[:-1], "3", *weights)
    assert re.fullmatch(r"\d\.attn,\d\.attn,\d\.attn", small["best"]["plan"])  # nothing else frees the cache
    assert small["best"]["search"].keys() == {"perplexity", "kv-cache"}


def test_what_is_searched_for_may_differ_from_what_is_reported(searcher_command):
    arguments = ["--strategy", "exhaustive", "--budget", "2"]
    found = run_json(searcher_command, *arguments, "--search-by", "kl")
    run = searcher.load_run(found["run"])
    kl = {plan: run.measurements.rows("search", plan, "kl").mean() for plan in run.measurements.plans("search")}
    pairs = [plan for plan in kl if plan.size(Granularity.BLOCK) == 2]
    assert PrunePlan.parse(found["best"]["plan"]) == min(pairs, key=kl.__getitem__)
    assert list(found["best"]["search"]) == ["perplexity", "kl"]
    assert found["config"]["search_by"] == "kl"
    other = run_json(searcher_command, *arguments)
    told = searcher_command("compare", found["run"], other["run"], defaults=False)
    assert "searched for kl, and chose its plans by that, not by perplexity" in told.out


def test_the_default_searches_by_hybrid_where_perplexity_is_asked_for(searcher_command):
    default = run_json(searcher_command, "--budget", "2")
    assert default["config"]["strategy"] == "bayesian"
    assert default["config"]["search_by"] == "hybrid"
    assert list(default["best"]["search"]) == ["perplexity", "hybrid"]
    assert run_json(searcher_command, "--budget", "2", "--search-by", "perplexity")["best"]["search"].keys() == {
        "perplexity"
    }
    several = run_json(searcher_command, "--budget", "2", "--objective", "kl", "--objective", "perplexity")
    assert several["config"]["search_by"] is None
    weighed = run_json(searcher_command, "--budget", "2", "--objective-arg", "hybrid:kl=1")
    assert weighed["run"] != default["run"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--search-by", "hybird"], "hybrid"),
        (["--search-by", "kl", "--weight", "perplexity=1"], "--search-by kl and --weight both say"),
    ],
)
def test_a_wrong_search_by_is_one_line(searcher_command, given, told):
    done = searcher_command("run", "--budget", "2", *given)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("strategy", ["greedy", "bayesian", "shapley", "evolutionary", "random", "beam"])
def test_a_bound_is_met_by_the_final_plan(searcher_command, strategy):
    arguments = ["--strategy", strategy, "--granularity", "sublayer", "--budget", "5", "--max-evaluations", "80"]
    found = run_json(searcher_command, *arguments, "--at-most", "kv-cache=50%")
    assert found["best"]["search"]["kv-cache"] <= 0.5 * found["dense"]["search"]["kv-cache"]
    assert found["best"]["size"] == 5
    assert [entry["size"] for entry in found["front"]] == [5]


def test_a_bound_that_is_only_known_when_measured(searcher_command):
    free = run_json(searcher_command, "--strategy", "exhaustive", "--budget", "2")
    run = searcher.load_run(free["run"])
    losses = sorted(
        float(np.mean(run.measurements.rows("search", plan, "perplexity"))) for plan in run.measurements.plans("search")
    )
    arguments = ["--strategy", "exhaustive", "--budget", "2", "--objective", "loss", "--weight", "loss=1"]
    bounded = run_json(searcher_command, *arguments, "--at-most", f"perplexity={math.exp(losses[3])}")
    assert bounded["best"]["search"]["perplexity"] <= math.exp(losses[3]) * (1 + 1e-9)
    hopeless = searcher_command("run", *arguments, "--at-most", "perplexity=1")
    assert "No measured plan of 2 units keeps to --at-most perplexity=1 (it has " in hopeless.out


def test_a_bound_that_no_plan_can_keep_to_is_refused(searcher_command):
    done = searcher_command("run", "--budget", "2", "--at-most", "kv-cache=50%")
    assert done.code == 2
    assert "No plan that removes 2 units keeps to --at-most kv-cache=50%" in done.err
    assert "The least that can be left is kv-cache=66.7%: raise the bound, or set --budget to 3" in done.err


def lines_of(error):
    return [line for line in error.splitlines() if line.startswith(("Error:", "  "))]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--strategy", "shaply"], "Unknown strategy 'shaply'|Did you mean 'shapley'"),
        (["--objective", "perplexty"], "Unknown objective 'perplexty'|Did you mean 'perplexity'"),
        (
            ["--strategy", "shapley", "--strategy-arg", "chain=4"],
            "Unknown option 'chain' of strategy 'shapley'|Did you mean 'chains'",
        ),
        (
            ["--strategy", "shapley", "--strategy-arg", "chains=many"],
            "Option 'chains' of strategy 'shapley': 'many' does not fit|integer",
        ),
        (
            ["--strategy", "shapley", "--strategy-arg", "chains=1"],
            "Option 'chains' of strategy 'shapley': '1' does not fit|greater than",
        ),
        (["--strategy", "optuna", "--strategy-arg", "sampler=annealing"], "Option 'sampler' of strategy 'optuna'|tpe"),
        (["--strategy", "shapley", "--strategy-arg", "samples=9"], "'samples' is for the estimators of shapiq|chains"),
        (["--max-attention", "1"], "limit a free mix, but the granularity is 'block'|--granularity sublayer"),
        (
            ["--granularity", "sublayer", "--max-attention", "0", "--max-ffn", "1"],
            "asks for 2 units, but with .* only 1 can be removed|or raise them",
        ),
        (["--strategy", "greedy", "--start", "1-2"], "Strategy 'greedy' does not start from a plan|local"),
        (["--start", "runs/none"], "cannot read 'runs/none'|separated by commas"),
        (["--start", "1-3"], "The starting plan 1-3 removes 3 units, the budget 2|of a size that is asked for"),
        (["--start", "1,9"], "names block 9, but the model has 6 blocks|numbered 0 to 5"),
        (["--start", "1-2", "--keep", "2"], "removes units that are protected|--keep"),
        (["--strategy", "exhaustive", "--strategy-arg", "most=10"], "There are 15 plans, more than the 10|raise most"),
        (
            ["--strategy", "contiguous", "--keep", "1,3,5"],
            "No 2 consecutive units may be removed together|protect less",
        ),
        (["--strategy-arg", "chains"], "--strategy-arg 'chains' is not name=value|name=value"),
        (["--objective-arg", "x=1"], "Unknown option 'x' of objective 'perplexity'|no options"),
        (["--budget", "0"], "Budget '0' removes nothing|at least 1"),
        (["--budget", "7"], "Budget '7' is larger than the 6 units|less"),
        (["--budget", "some"], "Budget 'some' is not a number of units|8"),
        (["--keep", "6"], "names block 6, but the model has 6 blocks|0 to 5"),
        (["--keep", "all"], "Plan 'all': cannot read 'all'|Write"),
        (["--data", "none.txt"], "Data 'none.txt': there is no such file|path"),
        (["--data", "bad.txt"], "Data 'bad.txt' cannot be read|UTF-8"),
        (["--model", "empty"], "Folder 'empty' holds no causal LM|save_pretrained"),
        (["--model", "./none"], "Model './none' is not a folder|hub id"),
        (["--windows", "1000"], "too short for 1000 windows of 16 tokens: [0-9]+ fit|--data"),
        (["--window-tokens", "300"], "Windows of 300 tokens are longer than the 256 the model reads|Lower"),
        (["--report-windows", "31"], "--report-windows: '31' does not fit|at least 32"),
        (["--seed", "-1"], "--seed: '-1' does not fit|greater"),
        (["--windows", "x"], "--windows|--help"),
        (["--format", "xml"], "--format|--help"),
        (["--nonsense", "1"], "No such option: --nonsense|--help"),
        (["--timeout", "soon"], "Timeout 'soon' is not a duration|30m"),
        (["--max-cost", "0"], "--max-cost: '0.0' does not fit|greater"),
        (["--dtype", "int3"], "dtype 'int3' is not known|float32"),
        (["--device", "tpu"], "Device 'tpu' is not known|cuda"),
        (["--name", "a/b"], "Name 'a/b' cannot be a folder name|letters"),
        (["--config", "none.yaml"], "Configuration none.yaml cannot be read|YAML"),
        (["--config", "odd.yaml"], "Unknown option 'budgets'|Did you mean 'budget'"),
        (["--strategy", "none.py:A"], "there is no file none.py|path"),
        (["--strategy", "broken.py:A"], "broken.py cannot be imported .ZeroDivisionError|Mend"),
        (["--strategy", "mine.py:None"], "mine.py has no Strategy class 'None'|Strategy"),
        (["--strategy", "mine.py:TopOne"], "mine.py has no Strategy class 'TopOne'|Strategy"),
        (["--strategy", "no.such.module:A"], "no.such.module cannot be imported|name"),
        (["--runs-dir", "bad.txt"], "cannot be written|--runs-dir"),
        (["--config", "odd.bin"], "Configuration odd.bin cannot be read|YAML"),
        (["--max-evaluations", "nan"], "--max-evaluations: 'nan' does not fit|greater"),
        (["--keep", "0-5"], "Budget '2' is larger than the 0 units|less"),
        (["--objective", "loss", "--objective", "loss"], "An objective is named twice: loss, loss|once"),
        (["--objective-arg", "topone:k=1"], "Options for objective 'topone', which is not measured|--objective"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_a_hint(searcher_command, tmp_path, arguments, told):
    write_plugins(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x81")
    (tmp_path / "odd.yaml").write_text("budgets: 3\n")
    (tmp_path / "odd.bin").write_bytes(b"\xff\x00")
    budget = [] if "--budget" in arguments else ["--budget", "2"]
    done = searcher_command("run", *budget, *arguments)
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    error, hint = lines_of(done.err)
    what, expected = told.rsplit("|", 1)
    assert re.search(what.split("|")[0], error), error
    assert re.search("|".join(what.split("|")[1:]) or expected, hint), hint
    assert re.search(expected, error + hint), hint


def test_a_missing_budget(searcher_command):
    done = searcher_command("run")
    assert done.code == 2
    assert lines_of(done.err)[0] == "Error: Option --budget is missing"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--plan", "2,6"], "Plan 2,6 names block 6, but the model has 6 blocks"),
        (["--plan", "3-"], "Plan '3-': cannot read '3-'"),
        ([], "Missing option '--plan'"),
    ],
)
def test_mistakes_in_evaluate(searcher_command, arguments, told):
    done = searcher_command("evaluate", *arguments)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (["--windows", "5"], "windows was 4, now 5"),
        (["--seed", "1"], "seed was 0, now 1"),
        (["--strategy", "greedy"], 'strategy was "bayesian", now "greedy"'),
        (["--budget", "3"], 'budget was "2", now "3"'),
        (["--dtype", "bfloat16"], 'dtype was "float32", now "bfloat16"'),
    ],
)
def test_a_run_folder_of_another_configuration_is_refused_naming_the_field(searcher_command, changed, field):
    assert searcher_command("run", "--budget", "2", "--name", "a").code == 0
    before = {path: path.read_bytes() for path in Path("runs/a").iterdir()}
    done = searcher_command("run", *([] if "--budget" in changed else ["--budget", "2"]), "--name", "a", *changed)
    assert done.code == 2
    assert f"runs/a holds a run of another configuration: {field}" in done.err
    assert {path: path.read_bytes() for path in Path("runs/a").iterdir()} == before


def test_changed_text_or_weights_make_another_run(searcher_command, tiny, tmp_path):
    assert searcher_command("run", "--budget", "2", "--name", "a").code == 0
    other = write_text(tmp_path / "text.jsonl", documents=61)
    done = searcher_command("run", "--budget", "2", "--name", "a", "--data", other)
    assert done.code == 2
    assert "another configuration: text_fingerprint was" in done.err
    save_tiny_checkpoint(tmp_path / "model", num_blocks=5)
    done = searcher_command("run", "--budget", "2", "--name", "a", "--model", tmp_path / "model")
    assert done.code == 2
    assert "another configuration: model_fingerprint was" in done.err
    # the same paths, with other contents
    at = ["--data", tmp_path / "text.jsonl", "--model", tmp_path / "model", "--budget", "2", "--name", "b"]
    assert searcher_command("run", *at).code == 0
    write_text(tmp_path / "text.jsonl", documents=62)
    assert "another configuration: text_fingerprint was" in searcher_command("run", *at).err
    write_text(tmp_path / "text.jsonl", documents=61)
    assert searcher_command("run", *at).code == 0
    save_tiny_checkpoint(tmp_path / "model", num_blocks=6)
    assert "another configuration: model_fingerprint was" in searcher_command("run", *at).err


def test_a_damaged_run_folder_is_named_not_traced_back(searcher_command):
    arguments = ["run", "--strategy", "greedy", "--budget", "2", "--name", "a"]
    assert searcher_command(*arguments).code == 0
    journal, record = Path("runs/a/evaluations.jsonl"), Path("runs/a/run.json")
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], lines[3][:30] + b"\n", *lines[4:]]))
    done = searcher_command(*arguments)
    assert done.code == 2
    error, hint = lines_of(done.err)
    assert error.startswith("Error: runs/a/evaluations.jsonl, line 4 is not a measurement")
    assert "delete that line" in hint
    journal.write_bytes(b"".join([*lines[:3], *lines[4:]]))  # as the hint says
    assert searcher_command(*arguments).code == 0
    assert len(journal.read_bytes().splitlines()) == len(lines)
    record.write_text(record.read_text()[:100])
    done = searcher_command(*arguments)
    assert done.code == 2
    assert lines_of(done.err)[0].startswith("Error: runs/a/run.json cannot be read")
    assert "damaged: runs/a/run.json cannot be read" in searcher_command("list", "runs", defaults=False).out


def test_a_second_searcher_on_the_same_run_is_refused(searcher_command):
    with Journal(Path("runs/a")):
        done = searcher_command("run", "--budget", "2", "--name", "a")
    assert done.code == 2
    assert lines_of(done.err)[0] == "Error: runs/a is being written by another searcher"
    assert searcher_command("run", "--budget", "2", "--name", "a").code == 0


def test_brackets_in_a_path_are_no_markup(searcher_command):
    done = searcher_command("run", "--strategy", "greedy", "--budget", "1", "--runs-dir", "r[/b][red]", "--name", "a")
    assert done.code == 0
    assert "Kept in r[/b][red]/a" in done.out
    assert "Run folder r[/b][red]/a" in done.err


def test_a_changed_strategy_of_the_users_own_is_another_run(searcher_command, tmp_path):
    write_plugins(tmp_path)
    arguments = ["run", "--strategy", "mine.py:Last", "--budget", "2", "--name", "a"]
    assert searcher_command(*arguments).code == 0
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "\n# another version\n")
    done = searcher_command(*arguments)
    assert done.code == 2
    assert "another configuration: the strategy: mine.py has changed since" in done.err


def test_an_impossible_budget_leaves_no_folder_behind(searcher_command, tmp_path):
    assert searcher_command("run", "--budget", "7").code == 2
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_stays_finished_when_shown_again_and_interrupted(searcher_command, monkeypatch):
    document = run_json(searcher_command, "--strategy", "greedy", "--budget", "2", "--name", "a")

    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("searcher.commands.run.ranked_plans", interrupt)
    assert searcher_command("run", "--strategy", "greedy", "--budget", "2", "--name", "a").code == 130
    assert searcher.load_run("runs/a").document() == document
