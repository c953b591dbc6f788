"""The replacement map against models that were copied and changed, and run without a cache."""

import copy
import json

import numpy as np
import pytest
import torch
from anatomies import IDS, Shares, measured, replayed
from families import FAMILIES, tiny_model

from searcher.anatomy import replacement
from searcher.anatomy.replacement import assemble, cost, find_misfits, measure_rows
from searcher.anatomy.replacement_map import ReplacementMap
from searcher.architecture.blocks import find_architecture
from searcher.contracts.plan import Granularity, PrunePlan

MIXED = ("gemma2", "gemma3_text", "olmo3", "cohere2", "gpt_oss", "exaone4", "smollm3", "qwen2")
OTHERS = ("llama", "gpt2", "bloom", "opt", "qwen3_moe", "deepseek_v3", "falcon")


def measured_map(replay, **options):
    misfits = find_misfits(replay, IDS)
    return assemble(dict(measure_rows(replay, IDS, misfits, **options)), misfits)


@torch.inference_mode()
def copied(model, place, block):
    """float64 (windows,): losses of a deep copy with its own copy of a block in that place."""
    changed = copy.deepcopy(model)
    blocks = find_architecture(changed).blocks
    blocks[place] = copy.deepcopy(blocks[block])
    logits = changed(input_ids=IDS, use_cache=False).logits[:, :-1].double().transpose(1, 2)
    return torch.nn.functional.cross_entropy(logits, IDS[:, 1:], reduction="none").mean(dim=1).numpy()


@pytest.mark.parametrize("family", MIXED + OTHERS)
def test_cells_equal_a_materialised_copy_run_without_cache(family):
    assert family in FAMILIES
    model = tiny_model(family)
    found = measured_map(replayed(family, model, Granularity.BLOCK))
    assert not found.misfits
    expected = [[copied(model, place, block) for block in range(4)] for place in range(4)]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-6)
    np.testing.assert_allclose(found.perplexity, np.exp(np.mean(expected, axis=-1)), rtol=1e-6)
    assert len(np.unique(found.losses.mean(axis=-1).round(6))) == 13, "all cells off the diagonal are different models"


def test_the_kinds_of_attention_belong_to_the_place():
    """A block that had a sliding window sees everything in the place of one that had none, and the other way round."""
    model = tiny_model("gemma2")
    assert model.config.layer_types[:2] == ["sliding_attention", "full_attention"]
    replay = replayed("gemma2", model)
    with torch.inference_mode():
        states = replay.embed(IDS[:1])
        early = torch.cat([-states[:, :1], states[:, 1:]], dim=1)  # only the first token is changed
        for block in range(4):
            in_window, in_full = (
                (replacement.run_copy(replay, s, 0, block)[0, -1], replacement.run_copy(replay, s, 1, block)[0, -1])
                for s in (states, early)
            )
            assert torch.equal(in_window[0], in_full[0])
            assert not torch.equal(in_window[1], in_full[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe"])
def test_the_diagonal_is_the_dense_loss_to_the_last_bit(family, dtype, monkeypatch):
    monkeypatch.setattr("searcher.replay.batching.GROUP_TOKENS", {"cpu": 96})  # groups of 2, 2, 2 and 1 windows
    replay = replayed(family, tiny_model(family).to(dtype))
    found = measured_map(replay)
    dense = measured(replay, [PrunePlan()]).of(PrunePlan())
    assert all(np.array_equal(found.losses[block, block], dense) for block in range(4))
    assert np.array_equal(found.dense, dense)
    assert not np.diag(found.increase).any()


def test_rows_can_be_left_out_and_are_the_same_bits():
    replay = replayed("gemma2")
    whole = measured_map(replay)
    some = dict(measure_rows(replay, IDS, {}, places=[3, 1]))
    assert list(some) == [1, 3]
    assert all(np.array_equal(losses, whole.losses[place]) for place, losses in some.items())
    assert not dict(measure_rows(replay, IDS, {}, places=[]))


def test_cost_counts_the_blocks_that_run_and_shares_add_up(monkeypatch):
    replay, ran, shares = replayed("llama"), [], Shares()
    for name in ("run_block", "run_replacement"):
        run = getattr(replay, name)
        monkeypatch.setattr(replay, name, lambda h, *a, run=run: (ran.append(len(h)), run(h, *a))[1])
    losses = replay.head.losses
    heads = []
    monkeypatch.setattr(replay.head, "losses", lambda h, ids: (heads.append(len(h)), losses(h, ids))[1])
    for places in (None, [2], [0, 3]):
        ran.clear(), heads.clear(), shares.clear()
        list(measure_rows(replay, IDS, {}, places, shares, cores=1))
        expected = cost(4, len(IDS), places)
        assert (sum(ran), sum(heads)) == (expected.layer_forwards, expected.heads)
        assert shares.complete()


@pytest.mark.parametrize("family", ["gemma2", "qwen3_moe"])
def test_the_same_bits_on_any_number_of_cores(family):
    replay, shares, before = replayed(family), Shares(), torch.get_num_threads()
    one = dict(measure_rows(replay, IDS, {(2, 1): "why"}, cores=1))
    several = dict(measure_rows(replay, IDS, {(2, 1): "why"}, done=shares, cores=3))
    assert all(np.array_equal(losses, several[place], equal_nan=True) for place, losses in one.items())
    assert np.isnan(one[2][1]).all()
    assert shares.complete()
    assert torch.get_num_threads() == before


def test_the_model_is_left_as_it_was():
    model = tiny_model("gemma2")
    before, replay = copy.deepcopy(model), replayed("gemma2", model)
    measured_map(replay)
    assert all(torch.equal(old, model.state_dict()[name]) for name, old in before.state_dict().items())
    assert not replay.after
    for module, old in zip(model.modules(), before.modules(), strict=True):
        assert module.__dict__.keys() == old.__dict__.keys()


def hybrid(attention):
    from transformers import AutoModelForCausalLM, Qwen3NextConfig

    torch.manual_seed(0)
    config = Qwen3NextConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, layer_types=["linear_attention", "full_attention"] * 2,
        initializer_range=0.2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    return model.eval().requires_grad_(False)


def test_blocks_that_would_see_later_tokens_are_not_run():
    """Linear attention is given no mask; in its place an attention that is masked by nothing else looks ahead.

    Nor can linear attention do anything with a mask of the other kind.
    """
    found = measured_map(replayed("qwen3_next", hybrid("eager"), Granularity.BLOCK))
    ahead = {(i, j) for i in (0, 2) for j in (1, 3)}
    assert {cell for cell, reason in found.misfits.items() if reason == "it sees later tokens there"} == ahead
    assert {cell for cell, reason in found.misfits.items() if "cannot run there (RuntimeError: " in reason} == {
        (j, i) for i, j in ahead
    }
    assert np.array_equal(np.isnan(found.losses).any(axis=-1), np.indices((4, 4)).sum(axis=0) % 2 == 1)
    assert len(json.loads(json.dumps(found.facts()))["misfits"]) == 8


def test_where_torch_masks_by_itself_all_blocks_fit():
    model = hybrid("sdpa")
    found = measured_map(replayed("qwen3_next", model, Granularity.BLOCK))
    assert not found.misfits
    np.testing.assert_allclose(found.losses[0, 1], copied(model, 0, 1), rtol=1e-6)
    np.testing.assert_allclose(found.losses[1, 0], copied(model, 1, 0), rtol=1e-6)


def test_a_block_that_cannot_run_in_a_place_is_told(monkeypatch):
    replay = replayed("smollm3")
    run = replacement.run_copy

    def fails(replay, hidden, place, block):
        if (place, block) == (0, 1):
            raise RuntimeError("shapes differ")
        return run(replay, hidden, place, block)

    monkeypatch.setattr(replacement, "run_copy", fails)
    monkeypatch.setattr(replacement, "alike", lambda *_: {0: [0, 2], 1: [1, 3]})
    reason = "it cannot run there (RuntimeError: shapes differ)"
    assert find_misfits(replay, IDS) == {(i, j): reason for i in (0, 2) for j in (1, 3)}


def test_what_is_read_from_the_map():
    rises = np.array([[0.0, 1, 2], [3, 0, 4], [5, np.nan, 0]])
    found = ReplacementMap(np.stack([2 + rises, 4 + rises], axis=-1), {(2, 1): "why"})
    np.testing.assert_allclose(found.increase, rises)
    np.testing.assert_allclose(found.perplexity[0], np.exp([3, 4, 5]))
    np.testing.assert_allclose(found.as_copy, [4, 1, 3])
    np.testing.assert_allclose(found.as_place, [1.5, 3.5, 5])
    assert (found.symmetry().value, found.symmetry().count) == (pytest.approx(1), 2)
    assert found.symmetry(1).count == 1
    assert set(found.arrays()) == {"losses", "perplexity", "as_copy", "as_place"}
