"""A search is charged for all it learns, once and the same every time; what was run is told beside it."""

import json

import pytest
import torch
from tiny_checkpoint import OPTIONS

from searcher.contracts.plan import PrunePlan
from searcher.runs.measurement import Measurement

BLOCKS, WINDOWS = 6, OPTIONS["windows"]

GENERATING = '''
import numpy as np
import torch
from searcher.contracts.objective import Objective

class Generating(Objective):
    """The loss of a fixed text of 8 tokens, by the model itself."""
    unit = "nats"
    reads = "plan"
    def measure(self, candidate):
        with candidate.model() as model:
            ids = torch.arange(8)[None] % 20
            return np.array([float(model(input_ids=ids, labels=ids).loss)])
'''


@pytest.fixture
def run(searcher_command):
    """A greedy search in a folder of runs of its own, so that it shares nothing; its document and its record."""

    def call(name, *arguments):
        given = () if "--strategy" in arguments else ("--strategy", "greedy")
        done = searcher_command("run", "--format", "json", "--name", name, "--runs-dir", name, *given, *arguments)
        assert done.code == 0, done.err
        document = json.loads(done.out)
        with open(f"{document['run']}/run.json") as file:
            return document, json.load(file)

    return call


def worth(record, layer_forwards, heads, plan=(BLOCKS * WINDOWS, WINDOWS)):
    """How many plans cost as much, each so many layer-forwards and heads."""
    head = record["prices"]["head"]
    return (layer_forwards + heads * head) / (plan[0] + plan[1] * head)


def test_what_objectives_look_up_in_the_dense_model_is_charged_once(run):
    plain, _ = run("plain", "--budget", "2")
    found, record = run("kl", "--budget", "2", "--objective", "perplexity", "--objective", "kl")
    charged, without = found["cost"]["charged"], plain["cost"]["charged"]
    assert charged["layer_forwards"] == without["layer_forwards"] + BLOCKS * WINDOWS
    assert charged["heads"] == without["heads"] + 2 * WINDOWS
    expected = without["evaluations"] + worth(record, BLOCKS * WINDOWS, 2 * WINDOWS)
    assert charged["evaluations"] == pytest.approx(expected)
    executed, before = found["cost"]["executed"], plain["cost"]["executed"]
    assert executed["layer_forwards"] == before["layer_forwards"] + BLOCKS * WINDOWS  # one core prepares once
    assert executed["heads"] == before["heads"] + 2 * WINDOWS
    again, _ = run("kl", "--budget", "2", "--objective", "perplexity", "--objective", "kl")
    assert again["cost"] == found["cost"]


def test_every_thread_prepares_for_itself_and_the_search_is_charged_once(run, monkeypatch):
    arguments = ("--budget", "1", "--objective", "kl")
    alone, _ = run("alone", *arguments)
    monkeypatch.setattr("searcher.replay.batching.GROUP_TOKENS", {"cpu": 16})  # four groups
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        several, _ = run("several", *arguments)
    finally:
        torch.set_num_threads(before)
    assert several["cost"]["charged"] == alone["cost"]["charged"]
    assert several["cost"]["executed"]["heads"] >= alone["cost"]["executed"]["heads"]


@pytest.mark.parametrize(
    ("metric", "forwards", "heads"),
    [("cosine", BLOCKS, 0), ("magnitude", 0, 0), ("taylor", 4 * BLOCKS, 2), ("logits", 6 + 5 + 4 + 3 + 2 + 1, 7)],
)
def test_statistics_count_as_the_plans_that_would_cost_as_much(run, metric, forwards, heads):
    found, record = run("run", "--strategy", "influence", "--strategy-arg", f"metric={metric}", "--budget", "2")
    charged = found["cost"]["charged"]
    plans = charged["evaluations"] - worth(record, forwards * WINDOWS, heads * WINDOWS)
    assert plans == pytest.approx(1)
    assert charged["layer_forwards"] == forwards * WINDOWS + 4 * WINDOWS


@pytest.mark.parametrize("limit", ["--max-evaluations", "--max-cost"])
@pytest.mark.parametrize("metric", ["taylor", "logits"])
def test_limits_count_statistics(run, searcher_command, metric, limit):
    kind = {"--max-evaluations": "evaluations", "--max-cost": "total"}[limit]
    arguments = ("--strategy", "influence", "--strategy-arg", f"metric={metric}", "--budget", "2")
    most = run("free", *arguments)[0]["cost"]["charged"][kind]
    refused = searcher_command("run", *arguments, limit, 0.9 * most)
    assert refused.code == 2
    assert "Not even one plan fits" in refused.err
    assert "statistics before it" in refused.err
    spare = 1.5 * most  # until a plan of full size is there, one is kept back at the price of the dense model
    assert run("limited", *arguments, limit, spare)[0]["cost"]["charged"][kind] <= spare


def test_limits_of_plans_count_screening_as_what_it_costs(run):
    arguments = ("--budget", "3", "--screening", "0.5")
    free, record = run("free", *arguments)
    charges = record["outcome"]["charges"]
    screened, looked_up = charges["screening"], charges["preparing"]
    assert charges["plans"]["evaluations"] == 3 + 3 + 2
    assert screened["evaluations"] == pytest.approx(worth(record, screened["layer_forwards"], screened["heads"]))
    assert (looked_up["layer_forwards"], looked_up["heads"]) == (BLOCKS * WINDOWS, WINDOWS)
    assert free["cost"]["charged"]["evaluations"] == pytest.approx(sum(c["evaluations"] for c in charges.values()))
    limited, _ = run("limited", *arguments, "--max-evaluations", "10")
    assert 8 < limited["cost"]["charged"]["evaluations"] <= 10
    assert limited["best"]["size"] == 3


def test_what_runs_the_model_itself_is_charged_as_on_the_dense_model(run, tmp_path):
    (tmp_path / "own.py").write_text(GENERATING)
    plain, _ = run("plain", "--budget", "1")
    found, _ = run("own", "--budget", "1", "--objective", "perplexity", "--objective", "own.py:Generating")
    tokens = OPTIONS["window_tokens"]
    charged, without = found["cost"]["charged"], plain["cost"]["charged"]
    assert charged["layer_forwards"] - without["layer_forwards"] == BLOCKS * BLOCKS * 8 / tokens  # of six plans
    assert charged["heads"] - without["heads"] == BLOCKS * 8 / tokens
    executed = found["cost"]["executed"]["layer_forwards"] - plain["cost"]["executed"]["layer_forwards"]
    assert executed == BLOCKS * (BLOCKS - 1) * 8 / tokens
    most = charged["total"] * 0.7
    limited, _ = run("limited", "--budget", "1", "--objective", "own.py:Generating", "--max-cost", most)
    assert limited["cost"]["charged"]["total"] <= most


@pytest.mark.parametrize(
    "strategy", [("influence", "metric=taylor"), ("influence", "metric=logits"), ("contiguous", "metric=angular")]
)
def test_the_forecast_is_what_is_charged(run, monkeypatch, strategy):
    told = []
    from searcher.commands.progress import Progress

    searching = Progress.searching
    monkeypatch.setattr(
        Progress, "searching", lambda self, loop, cost: told.append(cost) or searching(self, loop, cost)
    )
    name, argument = strategy
    objectives = ("--objective", "perplexity", "--objective", "kl")
    arguments = ("--strategy", name, "--strategy-arg", argument, "--budget", "2", *objectives)
    found, _ = run("run", *arguments)
    (cost,) = (one.cost for one in told)
    charged = found["cost"]["charged"]
    assert (cost.heads, cost.evaluations) == pytest.approx((charged["heads"], charged["evaluations"]))
    assert cost.layer_forwards == pytest.approx(charged["layer_forwards"])


def test_the_outcome_says_what_measured_no_plan(searcher_command):
    done = searcher_command("run", "--strategy", "influence", "--budget", "2", "--objective", "kl")
    told = " ".join(done.out.split())
    assert "counted as the plans that would cost as much: what objectives look up in the dense model" in told
    assert "statistics of the dense model" in told
    plain = searcher_command("run", "--strategy", "greedy", "--budget", "1")
    assert "counted as" not in plain.out


def test_lines_of_older_runs_are_read():
    line = {"split": "search", "plan": "1", "group": "windows:0", "rows": [0], "values": {"loss": [1.0]}}
    line |= {"layer_forwards": 3.0, "heads": 1.0, "seconds": 0.5}
    found = Measurement.from_json(line)
    assert found.plan == PrunePlan.parse("1")
    assert found.to_json() == line
