"""Batched siblings: only where the bits stay the same and it pays."""

import pytest
import torch
from families import VOCABULARY, tiny_model

from searcher.contracts.plan import Action, Granularity
from searcher.evaluation.candidate import Heads
from searcher.replay import plan_batching
from searcher.replay.plan_batching import batch_sizes, in_sizes
from searcher.replay.self_check import open_replay

IDS = torch.randint(VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def replay():
    with torch.inference_mode():
        return open_replay(tiny_model("llama"), Granularity.BLOCK)


def test_cutting_into_sizes():
    assert [list(part) for part in in_sizes(range(7), (4, 2, 1))] == [[0, 1, 2, 3], [4, 5], [6]]
    assert [list(part) for part in in_sizes(range(3), (1,))] == [[0], [1], [2]]
    assert list(in_sizes([], (4, 1))) == []


def test_short_sequences_are_batched_and_long_ones_not(replay):
    with torch.inference_mode():
        assert batch_sizes(replay, IDS)[0] > 1  # 32 tokens are far too few for a core
        assert batch_sizes(replay, IDS.repeat(16, 1)) == (1,)  # 512 tokens fill it


def test_a_batch_that_rounds_otherwise_is_not_made(replay, monkeypatch):
    run_block = replay.run_block

    def rounding_by_size(hidden, block, action):
        return run_block(hidden, block, action) * (1 + 1e-7 * (len(hidden) > 4))

    monkeypatch.setattr(replay, "run_block", rounding_by_size)
    with torch.inference_mode():
        assert max(batch_sizes(replay, IDS)) <= 2  # four rows at most


def test_a_batch_that_is_slower_is_not_made(replay, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(plan_batching, "_now", lambda _: float(next(ticks)))  # each way takes as long as the other
    with torch.inference_mode():
        assert batch_sizes(replay, IDS) == (1,)


def test_losses_of_plans_replayed_together_are_those_of_each(replay):
    with torch.inference_mode():
        hidden = [replay.run_block(replay.embed(IDS), block, Action.KEEP) for block in range(3)]
        heads = Heads(replay, IDS, torch.ones_like(IDS[:, 1:]).bool(), hidden, (2, 1))
        for position, state in enumerate(hidden):
            assert torch.equal(heads.losses(position), replay.head.losses(state, IDS))
