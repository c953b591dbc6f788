"""The pruned model: the same logits as the replay, cached generation, and nothing left behind."""

import copy

import pytest
import torch
from families import FAMILIES, VOCABULARY, tiny_model

from searcher.contracts.plan import Granularity, PrunePlan
from searcher.replay.pruned_model import pruned
from searcher.replay.self_check import open_replay

IDS = torch.randint(3, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(1))
BLOCKS_ONLY = ("bloom", "opt")


def opened(family):
    model = tiny_model(family)
    granularity = Granularity.BLOCK if family in BLOCKS_ONLY else Granularity.SUBLAYER
    with torch.inference_mode():
        return open_replay(model, granularity)


def plans_for(family):
    texts = ["dense", "0", "3", "1-2"] + ([] if family in BLOCKS_ONLY else ["0.attn", "0.attn,1,3.ffn", "2.attn,3"])
    return [PrunePlan.parse(text) for text in texts]


@pytest.mark.parametrize("family", FAMILIES)
def test_its_own_forward_gives_the_replays_logits(family):
    replay = opened(family)
    for plan in plans_for(family):
        with torch.inference_mode(), pruned(replay.model, replay.architecture, replay.outputs, plan) as model:
            own = model(input_ids=IDS, use_cache=False).logits
        with torch.inference_mode():
            ((_, hidden),) = replay.states(IDS, [plan])
            ours = torch.stack(list(replay.head.logits(hidden, IDS)))
        torch.testing.assert_close(own, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_a_cache_equals_generation_without(family):
    replay = opened(family)
    for plan in plans_for(family):
        with torch.inference_mode(), pruned(replay.model, replay.architecture, replay.outputs, plan) as model:
            settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
            cached = model.generate(IDS, use_cache=True, **settings)
            plain = model.generate(IDS, use_cache=False, **settings)
        assert cached.shape == (2, 36)
        assert torch.equal(cached, plain), str(plan)


def fail_within(replay, plan):
    with pruned(replay.model, replay.architecture, replay.outputs, plan) as model:
        assert len(replay.architecture.blocks) == model.config.num_hidden_layers
        raise ZeroDivisionError


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_behind_even_after_an_error(family):
    replay = opened(family)
    model, before = replay.model, copy.deepcopy(replay.model)
    for plan in plans_for(family):
        with pytest.raises(ZeroDivisionError):
            fail_within(replay, plan)
        assert vars(model.config) == vars(before.config)
        assert [n for n, _ in model.named_modules()] == [n for n, _ in before.named_modules()]
        for module, old in zip(model.modules(), before.modules(), strict=True):
            assert module.__dict__.keys() == old.__dict__.keys()
            assert getattr(module, "layer_idx", None) == getattr(old, "layer_idx", None)
        assert all(torch.equal(old, model.state_dict()[name]) for name, old in before.state_dict().items())
