"""Strategies that race: the same plan for fewer window evaluations, on games and on a real model, also when resumed."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import tiny_model

from objectives.loss import Loss
from searcher.contracts.games import additive_game, make_space, noisy_game, play
from searcher.contracts.ledger import Ledger, Limits
from searcher.contracts.plan import Granularity, all_units
from searcher.contracts.space import Space
from searcher.contracts.tariff import Tariff
from searcher.evaluation.open_executor import open_executor
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.journal import Journal, read_evaluations
from searcher.runs.sharing import Shared
from searcher.search.goals import Bound, Goals
from searcher.search.loop import SearchLoop
from searcher.search.recorder import Recorder
from searcher.search.selection import chosen_plans
from searcher.testing import tiny_tokenizer
from strategies.greedy import Greedy
from strategies.random import Random

WINDOWS = 32


def played(strategy, seed, *, racing, size=4, sizes=None, blocks=12):
    """A noisy additive game, with the space it was played in."""
    space = make_space(blocks, size, seed=seed, num_windows=WINDOWS, racing=racing)
    space = dataclasses.replace(space, sizes=sizes or (size,))
    game = noisy_game(additive_game(seed), seed, WINDOWS, noise=0.2)
    return play(strategy, space, game), space, game


def test_greedy_takes_the_same_steps_for_less():
    same, shares = 0, []
    for seed in range(40):
        raced, space, _ = played(Greedy(), seed, racing=0.05)
        in_full, _, _ = played(Greedy(), seed, racing=None)
        same += [step["plan"] for step in raced.outcome.notes["steps"]] == [
            step["plan"] for step in in_full.outcome.notes["steps"]
        ]
        shares.append(raced.evaluations(space) / in_full.evaluations(space))
    assert same >= 36  # four rounds at 0.05 each may lose 8 of 40; the test is careful
    assert max(shares) < 1
    assert np.mean(shares) < 0.75


def test_random_finds_the_same_plan_for_less():
    same, shares = 0, []
    for seed in range(20):
        raced, space, _ = played(Random(), seed, racing=0.05)
        in_full, _, _ = played(Random(), seed, racing=None)
        assert set(raced.plans) == set(in_full.plans)
        same += raced.outcome.plans[0] == in_full.outcome.plans[0]
        shares.append(raced.evaluations(space) / in_full.evaluations(space))
        assert all(any(plan in ask.plans for ask in raced.asks if ask.windows is None) for plan in raced.outcome.plans)
    assert same >= 18
    assert np.mean(shares) < 0.75


def test_random_races_each_size_for_itself():
    raced, space, game = played(Random(samples=90), 3, racing=0.05, sizes=(2, 3, 4))
    in_full, _, _ = played(Random(samples=90), 3, racing=None, sizes=(2, 3, 4))
    assert raced.evaluations(space) < 0.8 * in_full.evaluations(space)
    for size in (2, 3, 4):
        of_size = [plan for plan in in_full.plans if plan.size(Granularity.BLOCK) == size]
        best = min(of_size, key=lambda plan: game(plan).mean())
        assert next(plan for plan in raced.outcome.plans if plan.size(Granularity.BLOCK) == size) == best


@pytest.mark.parametrize("seed", range(3))
def test_random_stopped_within_a_race_stands_for_plans_measured_in_full_only(seed):
    strategy = Random(samples=40)
    raced, space, game = played(strategy, seed, racing=0.05)
    for stop_at, ask in enumerate(raced.asks):
        stopped = play(strategy, space, game, stop_at=stop_at)
        in_full = {plan for earlier in raced.asks[:stop_at] if earlier.windows is None for plan in earlier.plans}
        assert set(stopped.outcome.plans) == (in_full or {raced.plans[0]}), ask


def test_greedy_stopped_within_a_race_fills_up_by_the_last_finished_round():
    raced, space, game = played(Greedy(), 0, racing=0.05)
    finished = [i for i, ask in enumerate(raced.asks) if ask.windows is None]
    assert finished[1] - finished[0] > 1
    plan = play(Greedy(), space, game, stop_at=finished[0] + 1).outcome.plans[0]
    assert set(raced.outcome.plans[-1].removed) <= set(plan.removed)
    assert plan.size(Granularity.BLOCK) == 4


def model_of_unequal_blocks():
    """Six blocks whose weights, and so whose importance, grow from the first to the last; and text of its own."""
    model = tiny_model("llama", num_blocks=6)
    model.lm_head.weight.mul_(3.0)
    for number, block in enumerate(model.model.layers):
        for branch in (block.self_attn.o_proj, block.mlp.down_proj):
            branch.weight.mul_(0.1 * 1.6**number)
    return model


@pytest.fixture(scope="module")
@torch.inference_mode()
def parts():
    """Everything to measure with: one model for all runs."""
    model = model_of_unequal_blocks()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (WINDOWS, 1), generator=generator)
    while ids.shape[1] < 24:
        chances = model(input_ids=ids, use_cache=False).logits[:, -1].softmax(dim=-1)
        ids = torch.cat([ids, chances.multinomial(1, generator=generator)], dim=1)
    replay = open_replay(model, Granularity.SUBLAYER)
    return SimpleNamespace(replay=replay, ids=ids, prices=measure_prices(replay, ids.shape[1]))


def search(parts, folder, strategy, racing, most=None, bounds=()):
    """A search of three sublayers in this folder, resumed where its journal ends."""
    objectives = {"loss": Loss()}
    with torch.inference_mode():
        executor = open_executor(parts.replay, objectives, {"search": parts.ids}, tiny_tokenizer(), parts.prices)
    with Journal(folder) as journal:
        recorder = Recorder.resume(executor, journal, Shared())
        tariff = Tariff(parts.replay.num_blocks, parts.prices, WINDOWS, parts.ids.shape[1], 1.0, 0.0, 1.0, 0.0)
        ledger = Ledger(tariff, Limits(most))
        units = all_units(parts.replay.num_blocks, Granularity.SUBLAYER)
        space = Space(
            parts.replay.num_blocks, Granularity.SUBLAYER, units, (3,), WINDOWS, 0, ledger.fits, racing=racing
        )
        loop = SearchLoop(space, recorder, ledger, Goals(objectives, tuple(objectives), bounds=bounds))
        outcome = loop.run(strategy)
        return SimpleNamespace(
            outcome=outcome,
            chosen=chosen_plans(loop, outcome),
            charged=ledger.charged,
            measured=loop.measured_plans(),
            stopped=loop.stopped,
        )


def all_values(folder):
    """Every number in the journal; fails if one was measured twice."""
    values = {}
    for line in read_evaluations(folder):
        for row, number in zip(line.rows, line.values["loss"], strict=True):
            assert (line.plan, line.group, row) not in values
            values[line.plan, line.group, row] = number
    return values


@pytest.mark.parametrize("strategy", [Greedy(), Random(samples=40)], ids=["greedy", "random"])
def test_on_a_model_it_finds_the_same_for_less(parts, tmp_path, strategy):
    raced, in_full = (search(parts, tmp_path / str(racing), strategy, racing) for racing in (0.05, None))
    assert raced.chosen[3] == in_full.chosen[3]
    assert raced.charged.evaluations < 0.85 * in_full.charged.evaluations
    assert raced.charged.layer_forwards < 0.9 * in_full.charged.layer_forwards
    assert len(all_values(tmp_path / "0.05")) == round(raced.charged.evaluations * WINDOWS)
    assert 0 < len(raced.measured) < len(in_full.measured)
    assert set(raced.outcome.plans) <= set(raced.measured)


def test_with_a_measured_bound_it_still_races(parts, tmp_path):
    """A bound that half of all plans miss: the same plan for less, where every first look once was infinite."""
    free = search(parts, tmp_path / "free", Random(samples=40), None)
    bound = Bound("loss", "", float(np.median([np.mean(v) for v in means(tmp_path / "free")])), upper=True)
    raced, in_full = (search(parts, tmp_path / f"{r}", Random(samples=40), r, bounds=(bound,)) for r in (0.05, None))
    assert raced.chosen[3] == in_full.chosen[3] == free.chosen[3]
    assert raced.charged.evaluations < 0.9 * in_full.charged.evaluations


def means(folder):
    """The losses of each plan."""
    by_plan = {}
    for line in read_evaluations(folder):
        by_plan.setdefault(line.plan, []).extend(line.values["loss"])
    return by_plan.values()


@pytest.mark.parametrize("kept", [0.0, 0.15, 0.5, 0.9])
@pytest.mark.parametrize("strategy", [Greedy(), Random(samples=40)], ids=["greedy", "random"])
def test_resumed_from_a_journal_cut_anywhere_it_is_the_same_search(parts, tmp_path, strategy, kept):
    whole = search(parts, tmp_path / "whole", strategy, 0.05)
    lines = (tmp_path / "whole" / "evaluations.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    cut = b"".join(lines[: int(kept * len(lines))]) + lines[-1][:20]  # and a line that was being written
    (tmp_path / "cut" / "evaluations.jsonl").write_bytes(cut)
    assert search(parts, tmp_path / "cut", strategy, 0.05) == whole
    assert all_values(tmp_path / "cut") == all_values(tmp_path / "whole")


@pytest.mark.parametrize("most", [1, 2, 5.5, 9.25, 14, 20, 30])
@pytest.mark.parametrize("strategy", [Greedy(), Random(samples=40)], ids=["greedy", "random"])
def test_limits_hold_within_a_race_and_the_plan_has_the_full_size(parts, tmp_path, strategy, most):
    limited = search(parts, tmp_path / "run", strategy, 0.05, most)
    assert limited.stopped in ("evaluation limit", None)
    assert limited.charged.evaluations <= most + 1e-9
    assert limited.chosen[3].size(Granularity.SUBLAYER) == 3
