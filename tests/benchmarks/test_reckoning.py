"""What is reckoned on paper is what a streamed search reads, keeps and runs."""

import pytest
import torch
from executors import executor_on, measure_all
from families import VOCABULARY, tiny_model
from streaming import streamed_from

from benchmarks.reckoning import Rates, Shape, reckon, shape_of
from benchmarks.shapes import config_of
from objectives.loss import Loss
from searcher.contracts.plan import Granularity, PrunePlan, Unit
from searcher.replay import batching
from searcher.replay.self_check import open_replay

IDS = torch.randint(VOCABULARY, (6, 24), generator=torch.Generator().manual_seed(3))
TINY = Shape(5, width=32, inner=64, keys=16, vocabulary=VOCABULARY, bytes=4)
PLENTY = Rates(1e12, 1e9, 1e12)


def test_a_round_of_greedy_reads_and_keeps_what_was_reckoned(tmp_path, monkeypatch):
    monkeypatch.setitem(batching.GROUP_TOKENS, "cpu", 72)
    tiny_model("llama", num_blocks=5).save_pretrained(tmp_path)
    found = streamed_from(tmp_path, monkeypatch)
    with torch.inference_mode():
        replay = open_replay(found.model, Granularity.BLOCK)
    executor = executor_on(IDS, {"loss": Loss()}, replay, store=found.store)
    found.store.keep(())
    measure_all(executor, [PrunePlan()])
    before = found.store.bytes_read
    plans = [PrunePlan.of([Unit(block)]) for block in range(5)]
    _, lines = measure_all(executor, plans)
    (first, _) = reckon(TINY, 1, IDS.numel(), PLENTY)
    norms = (5 * 2 + 1) * 32 * 4
    ahead = TINY.block * 4 + 2 * 32 * 4  # the first block is read for the next round
    assert 0 <= found.store.bytes_read - before - first["GB read"] * 1e9 <= norms + ahead
    assert first["plans"] == len(plans)
    assert first["GB of states"] * 1e9 == sum(executor._state_bytes(job) for job in jobs_of(executor)) * len(plans)
    forwards = sum(line.layer_forwards for line in lines) * IDS.shape[1]  # of tokens
    assert first["PFLOP"] * 1e15 == pytest.approx(2 * (forwards * TINY.block + len(plans) * IDS.numel() * TINY.head))


def jobs_of(executor):
    from searcher.evaluation.job import Job

    return [Job("search", group, tuple(range(len(group.ids))), [PrunePlan()]) for group in executor.groups["search"]]


def test_less_room_takes_more_sweeps():
    whole, half = (
        reckon(shape_of(config_of("70b")), 1, 1 << 15, Rates(1e14, 3e9, states))[0] for states in (48e9, 24e9)
    )
    assert (whole["sweeps"], half["sweeps"]) == (1, 2)
    assert half["GB read"] == pytest.approx(2 * whole["GB read"])
    assert half["PFLOP"] == whole["PFLOP"]
