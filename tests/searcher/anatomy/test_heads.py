"""Similarity of heads against attention computed by hand, and against the inputs of the known output projections."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from anatomies import IDS, Shares, replayed
from families import FAMILIES, tiny_model
from oracle import _OUTPUTS

from searcher.anatomy.heads import Heads, cost, measure_heads
from searcher.architecture.blocks import find_architecture


def cosines(outputs):
    """(heads, size) to (heads, heads)."""
    return torch.cosine_similarity(outputs[:, None], outputs[None], dim=-1).numpy()


@torch.inference_mode()
def by_hand(model):
    """Attention weights times values: two heads of the four share each of the two heads of keys and values."""
    values = []
    for block in model.model.layers:
        block.self_attn.v_proj.register_forward_hook(lambda _m, _a, output: values.append(output))
    model.set_attn_implementation("eager")
    weights = model(input_ids=IDS, use_cache=False, output_attentions=True).attentions
    found = []
    for weight, value in zip(weights, values, strict=True):
        of_heads = value.view(len(IDS), IDS.shape[1], 2, -1).transpose(1, 2).repeat_interleave(2, dim=1)
        found.append(cosines((weight @ of_heads).double().mean(dim=(0, 2))))  # over windows and tokens
    return found


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_grouped_query_attention_by_hand(family):
    model = tiny_model(family)
    assert model.config.num_key_value_heads == 2
    assert model.model.layers[0].self_attn.v_proj.out_features == 16
    found = measure_heads(replayed(family, model), IDS)
    assert found.facts() == {"heads": [4, 4, 4, 4], "not_found": {}}
    np.testing.assert_allclose(np.stack(found.cosines), by_hand(tiny_model(family)), atol=1e-5)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "bloom"])
def test_every_family_by_its_known_output_projection(family):
    model, sums = tiny_model(family), {}
    for block in find_architecture(model).blocks:
        (path,) = _OUTPUTS[model.config.model_type][0]
        block.get_submodule(path).register_forward_pre_hook(
            lambda module, args: sums.update({module: args[0].double()})
        )
    with torch.inference_mode():
        model(input_ids=IDS, use_cache=False)
    expected = [cosines(states.mean(dim=(0, 1)).view(4, -1)) for states in sums.values()]
    found = measure_heads(replayed(family), IDS)
    assert not found.reasons
    np.testing.assert_allclose(np.stack(found.cosines), expected, atol=1e-5)


def test_a_head_that_says_nothing_is_like_no_other():
    model = tiny_model("llama")
    model.model.layers[2].self_attn.v_proj.weight.data[:8] = 0  # the values of heads 0 and 1
    found = measure_heads(replayed("llama", model), IDS).cosines[2]
    assert not found[:2].any()
    assert found[2, 3] != 0


def test_heads_that_are_not_found_are_told_with_the_reason():
    from transformers import AutoModelForCausalLM, Qwen3NextConfig

    config = Qwen3NextConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    found = measure_heads(replayed("qwen3_next", model), IDS)
    assert found.cosines[0] is None
    assert found.cosines[1].shape == (4, 4)
    assert found.facts()["not_found"] == {
        "0": "the last linear layer of its attention reads 16 numbers, not 4 heads of 8"
    }
    assert np.isnan(found.arrays()["cosines"][0]).all()


def test_a_block_without_attention_is_told():
    replay = replayed("llama")
    replay.architecture = dataclasses.replace(replay.architecture, attention=(None, *replay.architecture.attention[1:]))
    assert measure_heads(replay, IDS).reasons == {0: "it has no attention module"}


def test_a_config_without_heads_is_told():
    replay = replayed("llama")
    vars(replay.model.config)["num_attention_heads"] = None  # as in a config that has none
    found = measure_heads(replay, IDS)
    assert set(found.reasons.values()) == {"the config says no number of attention heads"}
    assert found.arrays()["cosines"].shape == (4, 0, 0)


def test_pairs_above_a_threshold():
    one = np.array([[1, 0.95, 0.2], [0.95, 1, 0.99], [0.2, 0.99, 1]])
    heads = Heads((one, None, np.eye(3)), {1: "none"})
    assert [(pair.block, pair.heads) for pair in heads.pairs(0.9)] == [(0, (1, 2)), (0, (0, 1))]
    assert [pair.cosine for pair in heads.pairs(0.96)] == [0.99]
    assert not heads.pairs(0.99)


def test_the_same_bits_again_no_hook_left_and_told_how_far(monkeypatch):
    monkeypatch.setattr("searcher.replay.batching.GROUP_TOKENS", {"cpu": 96})
    replay, shares = replayed("llama"), Shares()
    one, other = measure_heads(replay, IDS, shares), measure_heads(replay, IDS)
    assert all(np.array_equal(a, b) for a, b in zip(one.cosines, other.cosines, strict=True))
    assert not any(module._forward_pre_hooks for module in replay.model.modules())
    assert shares.complete()
    assert cost(4, len(IDS)).layer_forwards == 28
    json.dumps(one.facts())
