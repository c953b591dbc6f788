"""An executor: the same bits however many evaluators there are, whatever is kept, and whoever steals."""

import time
from collections import deque

import numpy as np
import pytest
import torch
from executors import executor_on, measure_all
from families import VOCABULARY, tiny_model

from objectives.loss import Loss, Perplexity
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.errors import UsageError
from searcher.evaluation.evaluator import Evaluator
from searcher.evaluation.executor import Executor, one_core
from searcher.evaluation.memory import Footprint, find_room, measure_footprint
from searcher.evaluation.prefix_cache import PrefixCache
from searcher.replay import batching
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements

IDS = torch.randint(VOCABULARY, (7, 24), generator=torch.Generator().manual_seed(3))


def random_plans(count, blocks=4, seed=0):
    rng, units = np.random.default_rng(seed), all_units(blocks, Granularity.SUBLAYER)
    drawn = (PrunePlan.of(units[i] for i in rng.permutation(len(units))[: rng.integers(1, 5)]) for _ in range(count))
    return list(dict.fromkeys(drawn))


def opened(dtype=torch.float32, cores=1, kept=None, objectives=None, family="llama"):
    objectives = objectives or {"perplexity": Perplexity()}
    executor = executor_on(IDS, objectives, tiny_model(family).to(dtype), cores=cores)
    replay, prices = executor.evaluator.replay, executor.evaluator.prices
    with torch.inference_mode():
        if kept is not None:
            states = PrefixCache(kept)
            executor = Executor(
                Evaluator(replay, objectives, prices, IDS.shape[1], states, executor.evaluator.facts),
                executor.groups,
                states,
                cores,
            )
    return executor


def measured(executor, asks):
    known, forwards = Measurements(executor.layout), 0.0
    for plans in asks:
        forwards += sum(line.layer_forwards for line in measure_all(executor, plans, known=known)[1])
    plans = dict.fromkeys(plan for plans in asks for plan in plans)
    return {plan: known.rows("search", plan, "perplexity").tolist() for plan in plans}, forwards


def greedy_asks(blocks=4):
    """Rounds that each start like a plan of the round before."""
    units, plan = all_units(blocks, Granularity.SUBLAYER), PrunePlan()
    for unit in (units[3], units[0], units[6]):
        yield [plan.remove(other) for other in units if other not in plan.units(Granularity.SUBLAYER)]
        plan = plan.remove(unit)


@pytest.fixture(params=[48, 512], ids=["small groups", "one group"])
def group_tokens(request, monkeypatch):
    monkeypatch.setattr(batching, "GROUP_TOKENS", {"cpu": request.param})


@pytest.mark.usefixtures("group_tokens")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_the_same_bits_with_any_number_of_evaluators_and_anything_kept(dtype, family):
    asks = [random_plans(30), *greedy_asks()]
    plain, _ = measured(opened(dtype, cores=1, kept=0, family=family), [[plan] for plans in asks for plan in plans])
    for cores, kept in ((1, 0), (1, 1 << 30), (2, 1 << 30), (5, 20_000)):
        found, _ = measured(opened(dtype, cores, kept, family=family), asks)
        assert found == {plan: plain[plan] for plan in found}, (cores, kept)


def test_states_kept_from_the_round_before_are_not_run_again():
    asks = list(greedy_asks())
    _, without = measured(opened(cores=1, kept=0), asks)
    _, with_all = measured(opened(cores=1, kept=1 << 30), asks)
    _, with_few = measured(opened(cores=1, kept=24 * 7 * 32 * 4 * 6), asks)
    assert with_all < 0.9 * without
    assert with_all < with_few < without


def test_threads_and_settings_of_torch_are_left_as_they_were():
    before = torch.get_num_threads()
    executor = opened(cores=2)
    lines = executor.measure("search", random_plans(5), Measurements(executor.layout))
    next(lines)
    lines.close()
    assert torch.get_num_threads() == before
    with one_core():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


class Slow(Loss):
    """Ten milliseconds a plan."""

    def measure(self, candidate):
        time.sleep(0.01)
        return super().measure(candidate)


def test_an_interrupted_measurement_is_given_out_before_the_interrupt(monkeypatch):
    executor = opened(cores=2, objectives={"perplexity": Slow()})
    import searcher.evaluation.executor as module

    interrupted = []

    class Queue(module.SimpleQueue):
        def get(self):
            if len(found) == 2 and not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt
            return super().get()

    monkeypatch.setattr(module, "SimpleQueue", Queue)
    found = []
    lines = executor.measure("search", random_plans(40), Measurements(executor.layout))
    with pytest.raises(KeyboardInterrupt):
        deque(map(found.append, lines), maxlen=0)
    assert 2 < len(found) < 40


def test_memory_is_shared_out():
    footprint = Footprint(state=1 << 20, working=50 << 20, num_blocks=30)
    cpu = torch.device("cpu")
    plenty = find_room(footprint, 1 << 40, cpu, cores=8)
    assert plenty.evaluators == 8
    assert plenty.kept > 1 << 39
    taken = (1 << 40) - plenty.kept - 8 * (footprint.needed + footprint.path)  # this process and the reserve
    two = find_room(footprint, taken + 2 * (footprint.needed + footprint.path) + (64 << 20), cpu, cores=8)
    assert two.evaluators == 2
    one = find_room(footprint, taken + footprint.needed + (8 << 20), cpu, cores=8)
    assert (one.evaluators, one.kept) == (1, 0)
    with pytest.raises(UsageError, match="is not enough"):
        find_room(footprint, taken, cpu, cores=8)
    with pytest.raises(UsageError, match="is not enough"):
        find_room(footprint, 1 << 20, cpu, cores=8)  # less than is taken already


def test_a_footprint_grows_with_the_group():
    with torch.inference_mode():
        replay = open_replay(tiny_model("llama"), Granularity.BLOCK)
        one, four = (measure_footprint(replay, 24, tokens) for tokens in (24, 96))
    assert (four.state, four.working) == (4 * one.state, 4 * one.working)
    assert one.state == 24 * tiny_model("llama").config.hidden_size * 4
    assert one.working > 10 * one.state
