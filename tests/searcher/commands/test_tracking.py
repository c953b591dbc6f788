"""Progress counts work: it grows with every group of windows, ends at the whole, and a search shows what moves."""

import io
import re
from types import SimpleNamespace

import pytest
import torch
from families import tiny_model
from rich.console import Console

from objectives.divergence import JS
from objectives.latency import Latency
from objectives.loss import Loss
from searcher.commands.progress import Progress
from searcher.commands.tracking import Plans, Scale
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.evaluation.open_executor import open_executor
from searcher.healing.calibration import Check
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements
from searcher.testing import tiny_tokenizer

IDS = torch.randint(97, (12, 16), generator=torch.Generator().manual_seed(2))
PLANS = [PrunePlan.parse(text) for text in ("dense", "0", "1-3")]


@pytest.fixture
def executor_of(monkeypatch):
    monkeypatch.setattr("searcher.replay.batching.GROUP_TOKENS", {"cpu": 64})  # three groups of windows

    def make(**objectives):
        with torch.inference_mode():
            replay = open_replay(tiny_model("llama", num_blocks=4), Granularity.BLOCK)
            prices = measure_prices(replay, 16)
            executor = open_executor(replay, objectives, {"search": IDS}, tiny_tokenizer(), prices, cores=1)
        return executor, Scale(4, prices, 16)

    return make


@pytest.mark.parametrize(
    "objectives",
    [{"loss": Loss()}, {"js": JS()}, {"loss": Loss(), "latency": Latency("prefill", tokens=4, rounds=2, repeats=1)}],
    ids=["loss", "three heads", "beside what replays nothing"],
)
def test_the_share_grows_with_every_group_and_ends_at_the_whole(executor_of, objectives):
    executor, scale = executor_of(**objectives)
    known = Measurements(executor.layout)
    ahead = Plans.ahead(scale, executor.groups, "search", PLANS, known)
    assert (ahead.plans, ahead.done) == (3, 0)
    shares, work = [], 0.0
    for line in executor.measure("search", PLANS, known):
        ahead.finished(line)
        work += scale.of(line)
        shares.append(ahead.done / ahead.total)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.4  # of nine measurements or more
    assert shares[-2] < 1
    assert shares[-1] == 1
    assert ahead.done == pytest.approx(work)
    assert ahead.plans == 0


def test_what_is_known_is_no_work_ahead(executor_of):
    executor, scale = executor_of(loss=Loss())
    known = Measurements(executor.layout)
    for line in executor.measure("search", PLANS[:2], known):
        known.add(line)
    assert Plans.ahead(scale, executor.groups, "search", PLANS, known).plans == 1
    assert not Plans.ahead(scale, executor.groups, "search", PLANS[:2], known).plans


def test_work_ahead_weighs_a_plan_by_what_it_adds_to_those_before_it(executor_of):
    executor, scale = executor_of(loss=Loss())
    ahead = Plans.ahead(scale, executor.groups, "search", PLANS, Measurements(executor.layout))
    head = scale.prices.head
    assert ahead.total == pytest.approx((4 + 3 + 0 + 3 * head) * 12 * 16)  # `1-3` is block 0 of the dense model


def test_a_fit_counts_while_it_goes_on(executor_of):
    executor, scale = executor_of(loss=Loss())
    ahead = Plans.ahead(scale, executor.groups, "search", PLANS[:1], Measurements(executor.layout))
    ahead.fitted(PLANS[0], 0.25)
    assert ahead.done == pytest.approx(0.25 * ahead.total)


def logged(monkeypatch, command, *arguments):
    """Every line that progress would print if each were due."""
    monkeypatch.setattr("searcher.commands.progress.LOG_EVERY", 0.0)
    done = command(*arguments)
    assert done.code == 0, done.err
    return done.err.splitlines()


def test_evaluate_tells_the_share_of_the_work_and_the_time_by_it(searcher_command, monkeypatch):
    monkeypatch.setattr("searcher.replay.batching.GROUP_TOKENS", {"cpu": 64})
    asked = ("evaluate", "--plan", "dense", "--plan", "1", "--plan", "2-3")
    lines = [line for line in logged(monkeypatch, searcher_command, *asked) if line.startswith("measure:")]
    assert len(lines) == 3 * 8  # plans times groups of the report windows
    shares = [int(re.match(r"measure: (\d+)%", line)[1]) for line in lines]
    assert shares == sorted(shares)
    assert len(set(shares)) == len(shares)
    assert shares[0] < 10
    assert all("left" in line for line in lines[:-1])
    assert "3 of 3 plans" in lines[-1]
    assert "3 of 3 plans" not in lines[-2]


def test_a_search_on_chains_shows_plans_cost_and_the_best_of_every_size(searcher_command, monkeypatch):
    asked = ("run", "--strategy", "shapley", "--budget", "4")
    lines = [line for line in logged(monkeypatch, searcher_command, *asked) if line.startswith("search:")]
    told = [re.search(r"cost ([\d.,]+) of about [\d.,]+  ([\d,]+) plans", line).groups() for line in lines]
    assert len(set(told)) > 0.9 * len(told)
    assert {re.search(r"best of (\d)", line)[1] for line in lines if "best of" in line} >= {"1", "2", "3", "4"}
    assert all(re.match(r"search: \d+%", line) for line in lines)
    assert any("left" in line for line in lines)


def test_a_pipe_gets_a_line_every_few_seconds_at_most(searcher_command):
    done = searcher_command("run", "--strategy", "shapley", "--budget", "4")
    assert not [line for line in done.err.splitlines() if line.startswith("search:")]  # it took no ten seconds


def test_a_terminal_shows_a_fit_that_no_stage_was_begun_for(monkeypatch):
    progress = Progress()
    screen = io.StringIO()
    progress._console = progress._bar.live.console = Console(file=screen, force_terminal=True, width=120)
    progress._bar.disable = False
    with progress:
        progress.healing(PrunePlan.parse("1"), Check(3, 4, 2.0, 1.5))
        progress._bar.refresh()
    assert "75%" in screen.getvalue()
    assert "step 3 of 4, held-out loss 1.5" in screen.getvalue()


def test_time_left_is_told_in_words_of_two_units(monkeypatch):
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr("searcher.commands.progress.time.monotonic", lambda: now.time)
    progress = Progress(quiet=True)
    with progress.part("influence") as done:
        now.time = 10.0
        done(0.5)
        assert progress._left(0.5, 1.0) == "about 10 s left"
        assert progress._left(0.01, 1.0) == "about 16 min left"
        assert progress._left(0.001, 1.0) == "about 2 h 46 min left"
        assert progress._left(1.0, 1.0) == "about 1 s left"
