"""Updates against what hooks on the model's own forward see being added to the residual stream."""

import json

import numpy as np
import pytest
import torch
from anatomies import IDS, PRICES, Shares, replayed
from families import tiny_model

from searcher.anatomy.updates import cost, measure_updates
from searcher.architecture.blocks import find_architecture
from searcher.contracts.plan import Action, Granularity, Part, Unit, all_units

ADDED = {  # what adds to the stream: a module for attention and one for the FFN, and by what its output is multiplied
    "llama": ("self_attn", "mlp", 1),
    "gpt2": ("attn", "mlp", 1),
    "mixtral": ("self_attn", "mlp", 1),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm", 1),  # norms after the sublayers
    "gpt_neox": ("attention", "mlp", 1),  # attention and FFN read the same states
    "granite": ("self_attn", "mlp", 0.5),
}


@torch.inference_mode()
def hooked(model, names, factor):
    """float64 (tokens, d) that each sublayer adds, in the order of the units."""
    blocks, added = find_architecture(model).blocks, {}

    def note(module, _args, output):
        added[module] = factor * (output[0] if isinstance(output, tuple) else output).double().flatten(0, 1).numpy()

    modules = [getattr(block, name) for block in blocks for name in names]
    for module in modules:
        module.register_forward_hook(note)
    model(input_ids=IDS, use_cache=False)
    return [added[module] for module in modules]


def sigma(update):
    deviations = update - update.mean(axis=0)
    return np.sqrt(np.mean([np.sum(row**2) / update.shape[1] for row in deviations]))


@pytest.mark.parametrize("family", ADDED)
def test_sublayers_equal_what_hooks_see(family):
    *names, factor = ADDED[family]
    expected = hooked(tiny_model(family), names, factor)
    units = all_units(4, Granularity.SUBLAYER)
    found = measure_updates(replayed(family), IDS, units)
    assert found.units == units
    assert found.tokens == IDS.numel()
    np.testing.assert_allclose(found.mean, [update.mean() for update in expected], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.mean_absolute, [np.abs(update).mean() for update in expected], rtol=1e-4)
    np.testing.assert_allclose(found.sigma, [sigma(update) for update in expected], rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "bloom", "opt"])
def test_blocks_equal_the_differences_of_their_states(family):
    model, states = tiny_model(family), []
    for block in find_architecture(model).blocks:
        block.register_forward_pre_hook(
            lambda _m, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        block.register_forward_hook(
            lambda _m, _a, output: states.append(output[0] if isinstance(output, tuple) else output)
        )
    with torch.inference_mode():
        model(input_ids=IDS, use_cache=False)
    updates = [
        (after - before).double().flatten(0, 1).numpy() for before, after in zip(states[::2], states[1::2], strict=True)
    ]
    found = measure_updates(replayed(family, granularity=Granularity.BLOCK), IDS, all_units(4, Granularity.BLOCK))
    np.testing.assert_allclose(found.sigma, [sigma(update) for update in updates], rtol=1e-4)
    np.testing.assert_allclose(found.mean_absolute, [np.abs(update).mean() for update in updates], rtol=1e-4)


def test_what_is_added_to_every_token_alike_has_no_sigma():
    """In float64 the square of a mean of 1000 would leave nothing of a spread of 1e-6 if it were subtracted."""
    model = tiny_model("gpt2")
    mlp = model.transformer.h[1].mlp.c_proj
    mlp.weight.data.zero_()
    mlp.bias.data.fill_(1024.0)
    model.transformer.h[1].attn.c_proj.weight.data.zero_()
    model.transformer.h[1].attn.c_proj.bias.data.zero_()
    found = measure_updates(replayed("gpt2", model), IDS, [Unit(1, Part.FFN), Unit(1, Part.ATTENTION)])
    assert found.mean[0] == pytest.approx(1024, rel=1e-6)
    assert found.sigma[0] < 1e-3  # of states rounded to float32
    assert found.mean_absolute[1] == found.sigma[1] == 0


def test_the_same_bits_again_and_told_how_far():
    replay, units, shares = replayed("qwen3"), all_units(4, Granularity.SUBLAYER), Shares()
    one, other = measure_updates(replay, IDS, units, shares), measure_updates(replay, IDS, units)
    assert all(np.array_equal(values, other.arrays()[name]) for name, values in one.arrays().items())
    assert shares.complete()
    assert json.loads(json.dumps(one.facts())) == {"tokens": 336, "units": [str(unit) for unit in units]}


def test_cost_counts_the_blocks_that_run(monkeypatch):
    replay, ran = replayed("llama"), []
    run = replay.run_block
    monkeypatch.setattr(replay, "run_block", lambda h, b, a: (ran.append(PRICES.weight[a]), run(h, b, a))[1])
    units = [Unit(0), Unit(1, Part.FFN), Unit(1, Part.ATTENTION), Unit(3, Part.FFN)]
    measure_updates(replay, IDS, units)
    assert cost(4, len(IDS), units, PRICES).layer_forwards == pytest.approx(sum(ran))
    assert PRICES.weight[Action.NO_FFN] in ran
