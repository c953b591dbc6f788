"""A model spread over two devices, simulated: everything is computed where it must be, and comes out the same."""

from functools import cache

import numpy as np
import pytest
import torch
from accelerate.hooks import remove_hook_from_submodules
from calibrations import PRICES, windows
from families import VOCABULARY, tiny_model
from simulated_devices import FIRST, SECOND, put, set_up, spread

from objectives.divergence import JS, KL
from objectives.loss import Loss
from searcher.anatomy.heads import measure_heads
from searcher.anatomy.replacement import find_misfits, measure_rows
from searcher.anatomy.updates import measure_updates
from searcher.contracts.objective import Objective, TokenBatch
from searcher.contracts.plan import Action, Granularity, PrunePlan, all_units
from searcher.evaluation.open_executor import open_executor
from searcher.healing.calibration import CalibrationSet
from searcher.healing.healer import make_healing
from searcher.replay import batching
from searcher.replay.dense_statistics import measure_statistics
from searcher.replay.head import OwnHead
from searcher.replay.pruned_model import pruned
from searcher.replay.relative_flops import measure_prices
from searcher.replay.repair import ReplacementModule
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements
from searcher.testing import tiny_tokenizer

IDS = torch.randint(VOCABULARY, (6, 24), generator=torch.Generator().manual_seed(2))
PLANS = [PrunePlan.parse(text) for text in ("dense", "0", "1", "2", "1.attn", "0,3", "1-2", "2-3", "1.ffn,3")]
UNITS = all_units(4, Granularity.SUBLAYER)


class Second(Objective):
    """The loss of the second half of some rows of its own, and the size of their states where it is taken."""

    unit = "nats"
    reads = "inputs"

    def inputs(self, tokenizer, split):
        scored = torch.zeros(2, IDS.shape[1] - 1, dtype=torch.bool)
        scored[:, IDS.shape[1] // 2 :] = True
        yield TokenBatch(IDS[:2], scored)

    def measure(self, candidate):
        states = candidate.hidden()[:, 1:][candidate.scored].square().sum()
        return (candidate.losses().where(candidate.scored, 0.0).sum(dim=1) + states).cpu().numpy()


@pytest.fixture(autouse=True)
def _simulated(monkeypatch):
    set_up()
    monkeypatch.setattr("torch.accelerator.synchronize", lambda device: None)
    monkeypatch.setattr(batching, "GROUP_TOKENS", {"cpu": 96, "accelerator": 96})  # which round the same
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)


def opened(model):
    with torch.inference_mode():
        return open_replay(model, Granularity.SUBLAYER)


def measured(replay, plans=PLANS, hooks=True):
    """By plan the values of all objectives, asked for in two batches, of which the second finds states of the first.

    Without hooks there is nothing left that hands states over but the replay itself.
    """
    objectives = {"loss": Loss(), "kl": KL(), "js": JS(), "second": Second()}
    with torch.inference_mode():
        prices = measure_prices(replay, IDS.shape[1])
        executor = open_executor(replay, objectives, {"search": IDS}, tiny_tokenizer(), prices)
    if not hooks:
        remove_hook_from_submodules(replay.model)
    known = Measurements(executor.layout)
    for batch in (plans[:4], plans[4:]):
        for line in executor.measure("search", batch, known):
            known.add(line)
    return executor, np.concatenate([known.rows("search", plan, name) for name in objectives for plan in plans])


@pytest.fixture
def on_one_device():
    """The values of a family on the CPU, measured once."""
    return _on_the_cpu


@cache
def _on_the_cpu(family):
    return measured(opened(tiny_model(family)))[1]


def test_the_simulation_refuses_what_is_not_together():
    one, other = torch.ones(2).to(FIRST), torch.ones(2).to(SECOND)
    with pytest.raises(RuntimeError, match="same device"):
        one + other
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2) + one
    assert (one + other.to(FIRST)).device == FIRST
    assert (one.cpu() + 1).tolist() == [2, 2]
    assert not torch.accelerator.is_available()  # so that other tests see none


@pytest.mark.parametrize(
    "family", ["llama", "gemma2", pytest.param("phi", marks=pytest.mark.slow)]
)  # plain; a capped head, tied to the embedding; biases
def test_a_search_gives_the_same_values_as_on_one_device(family, on_one_device):
    replay = opened(spread(tiny_model(family)))
    assert replay.places == (FIRST, FIRST, SECOND, SECOND)
    executor, found = measured(replay, hooks=False)
    np.testing.assert_array_equal(found, on_one_device(family))
    assert not executor.exact
    assert len(executor._evaluators) == 2  # one for each device, though torch has one thread


def test_with_the_hooks_of_accelerate_too(on_one_device):
    _, found = measured(opened(spread(tiny_model("llama"))))
    np.testing.assert_array_equal(found, on_one_device("llama"))


def test_an_evaluator_for_another_thread_copies_no_weight():
    model = spread(tiny_model("gemma2"))
    replay = opened(model)
    colleague = replay.sharing_weights()
    assert {id(p) for p in colleague.model.parameters()} == {id(p) for p in model.parameters()}
    assert all(
        getattr(module, "_hf_hook", None) is None or not module._hf_hook.tied_params_map for module in model.modules()
    )


@torch.inference_mode()
def test_a_block_and_what_stands_for_one_run_where_they_are():
    replay = opened(spread(tiny_model("llama")))
    hidden = replay.embed(IDS)
    assert hidden.device == FIRST
    remove_hook_from_submodules(replay.model)
    wanted = opened(tiny_model("llama"))
    there = wanted.run_block(wanted.embed(IDS), 3, Action.KEEP)
    copy = ReplacementModule(replay.architecture.blocks[3], like=0)  # the last block in the place of the first
    gone = replay.run_block(hidden, 2, Action.GONE)
    ways = {
        "whole": replay.run_block(hidden, 3, Action.KEEP),
        "with weights": replay.run_block_with(hidden, 3, {}),
        "as a copy": replay.run_replacement(hidden, copy),
    }
    for name, after in ways.items():
        assert after.device == SECOND, name
        assert torch.equal(after.cpu(), there), name
    assert gone.device == SECOND
    assert torch.equal(gone.cpu(), hidden.cpu())


def test_embeddings_go_to_the_first_block_and_final_states_to_the_head():
    model = tiny_model("llama")
    replay = opened(spread(model, embedding=SECOND, head=FIRST))
    with torch.inference_mode():
        assert replay.embed(IDS).device == FIRST
        ((_, hidden),) = replay.states(IDS, [PrunePlan.parse("1")])
        assert hidden.device == replay.exit == FIRST
        one = replay.head.losses(hidden, IDS).cpu()
        ((_, hidden),) = (plain := opened(tiny_model("llama"))).states(IDS, [PrunePlan.parse("1")])
        assert torch.equal(one, plain.head.losses(hidden, IDS))


@torch.inference_mode()
def test_the_slow_exact_head():
    plain, apart = opened(tiny_model("llama")), opened(spread(tiny_model("llama")))
    found = []
    for replay in (plain, apart):
        replay.use_own_head()
        assert isinstance(replay.head, OwnHead)
        ((_, hidden),) = replay.states(IDS, [PrunePlan.parse("1")])
        vocabulary = torch.arange(VOCABULARY).to(replay.exit)
        losses = replay.head.losses(hidden, IDS), replay.head.losses_among(hidden, IDS.to(replay.exit), vocabulary)
        found.append([each.cpu() for each in losses])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("recipe", "plan"),  # gaps over the border, and right behind it
    [
        ("bias:gate=0", "1-2"),
        ("rescale", "1"),
        ("rescale:fold=false", "0-1"),
        ("linear", "2"),
        ("linear:rank=4", "2.attn"),
        ("linear-folded", "1-2"),
    ],
)
def test_healings_in_closed_form(recipe, plan):
    found, plan = [], PrunePlan.parse(plan)
    for model in (tiny_model("llama"), spread(tiny_model("llama"))):
        replay = opened(model)
        calibration = CalibrationSet(replay, *(text.to(model.device) for text in windows(8, 4)), PRICES)
        with torch.inference_mode():
            repair = make_healing(recipe).heal(calibration, plan)
            assert repair
            for (block, _), replacement in repair.after.items():  # no states need to leave the block's device for it
                assert {p.device for p in replacement.module.parameters()} == {replay.places[block]}
            with pruned(model, replay.architecture, replay.outputs, plan, repair) as own:  # the model itself, healed
                logits = own(input_ids=IDS.to(model.device), use_cache=False).logits.cpu()
            found.append((calibration.loss(plan, repair), logits))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", ["cosine", "relative-l1", "logits", "state-cosines", "state-angles", "magnitude"])
def test_statistics(name):
    one, other = (
        measure_statistics(opened(model), IDS.to(model.device), [name], UNITS)[name]
        for model in (tiny_model("llama"), spread(tiny_model("llama")))
    )
    np.testing.assert_array_equal(one, other)


def test_anatomy():
    def seen(replay):
        rows = np.stack([row for _, row in measure_rows(replay, IDS, find_misfits(replay, IDS))])
        return rows, measure_heads(replay, IDS).arrays()["cosines"], measure_updates(replay, IDS, UNITS).sigma

    one, other = (seen(opened(model)) for model in (tiny_model("llama"), spread(tiny_model("llama"))))
    for here, there in zip(one, other, strict=True):
        np.testing.assert_array_equal(here, there)


def test_a_model_on_one_simulated_device_as_a_whole(on_one_device):
    model = tiny_model("llama")
    put(model, SECOND)
    model.tie_weights()
    executor, found = measured(opened(model))
    np.testing.assert_array_equal(found, on_one_device("llama"))
    assert len(executor._evaluators) == 1
