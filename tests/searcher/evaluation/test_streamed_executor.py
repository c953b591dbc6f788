"""Measuring with weights from the disk: the values of the resident way, in any number of sweeps and threads."""

from dataclasses import replace

import pytest
import torch
from executors import executor_on, measure_all
from families import VOCABULARY, tiny_model
from streaming import resident_from, streamed_from

from objectives.divergence import KL
from objectives.loss import Loss
from searcher.architecture.devices import bytes_taken
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.errors import UsageError
from searcher.evaluation.streamed_executor import StreamedExecutor
from searcher.loading.free_memory import RESERVE
from searcher.replay import batching
from searcher.replay.self_check import open_replay

IDS = torch.randint(VOCABULARY, (7, 24), generator=torch.Generator().manual_seed(3))
BLOCKS = 5


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setitem(batching.GROUP_TOKENS, "cpu", 72)  # three windows


def saved(folder, family="llama"):
    tiny_model(family, num_blocks=BLOCKS).save_pretrained(folder)
    return folder


def streamed_executor(folder, monkeypatch, dtype=torch.float32, **options):
    found = streamed_from(folder, monkeypatch, dtype)
    with torch.inference_mode():
        replay = open_replay(found.model, Granularity.SUBLAYER)
    return executor_on(IDS, objectives(), replay, store=found.store, **options)


def objectives():
    return {"loss": Loss(), "kl": KL()}


def plans():
    units = all_units(BLOCKS, Granularity.SUBLAYER)
    singles = [PrunePlan.of([unit]) for unit in units]
    return [PrunePlan(), *singles, *(plan.remove(units[7]) for plan in singles if units[7] not in plan.removed)]


def values(executor):
    known, lines = measure_all(executor, plans())
    return {(p, n): known.rows("search", p, n).tolist() for p in plans() for n in objectives()}, lines


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cores", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_values_of_the_resident_way(family, dtype, cores, tmp_path, monkeypatch):
    saved(tmp_path, family)
    here, lines = values(streamed_executor(tmp_path, monkeypatch, dtype, cores=cores))
    there, resident_lines = values(executor_on(IDS, objectives(), resident_from(tmp_path, dtype), cores=1))
    assert here == there
    assert {line.plan for line in lines} == {line.plan for line in resident_lines}


@pytest.mark.parametrize("states", [1, 3, 20])
def test_room_for_few_states_takes_more_sweeps_and_gives_the_same(states, tmp_path, monkeypatch):
    executor = streamed_executor(saved(tmp_path), monkeypatch, cores=2)
    state = 3 * 24 * 32 * 4
    executor._room = replace(executor._room, states=states * state)
    there, _ = values(executor_on(IDS, objectives(), resident_from(tmp_path), cores=1))
    assert values(executor)[0] == there


def test_a_round_reads_each_block_once(tmp_path, monkeypatch):
    executor = streamed_executor(saved(tmp_path), monkeypatch)
    store = executor._sweep._store
    store.keep(())
    measure_all(executor, [PrunePlan()])  # what the dense model is shown for
    before = store.bytes_read
    measure_all(executor, [plan for plan in plans() if plan.removed])
    whole = sum(map(store.stored_bytes, store.parts))
    assert store.bytes_read - before <= whole + 2 * max(map(store.stored_bytes, store.parts))


def test_all_that_is_run_is_counted(tmp_path, monkeypatch):
    executor = streamed_executor(saved(tmp_path), monkeypatch)
    _, lines = values(executor)
    _, resident_lines = values(executor_on(IDS, objectives(), resident_from(tmp_path), cores=1))
    run, resident_run = (sum(line.layer_forwards for line in some) for some in (lines, resident_lines))
    assert run == pytest.approx(resident_run)  # one ask shares prefixes alike in both ways


def test_too_little_memory_is_said(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"with weights streamed, .* are needed"):
        streamed_executor(saved(tmp_path), monkeypatch, memory=bytes_taken(torch.device("cpu")) + RESERVE)


def test_it_is_the_streamed_executor(tmp_path, monkeypatch):
    said = []
    executor = streamed_executor(saved(tmp_path), monkeypatch, say=said.append)
    assert isinstance(executor, StreamedExecutor)
    assert said[0].startswith("Weights are streamed")
