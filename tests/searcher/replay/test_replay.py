"""The replay against the plain oracle, in every family; and against itself, bit for bit."""

import copy

import pytest
import torch
from families import BLOCKS_ONLY, FAMILIES, VOCABULARY, tiny_model
from oracle import oracle_losses

from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError
from searcher.replay.head import FusedHead, OwnHead
from searcher.replay.self_check import open_replay

IDS = torch.randint(VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(1))  # longer than any sliding window
BLOCK_PLANS = ["dense", "0", "1", "3", "0,3", "1-2", "0-2", "0-3"]
SUBLAYER_PLANS = ["0.attn", "3.ffn", "1.attn,2.ffn", "0,2.attn", "0.ffn,1-2,3.attn", "0.attn,1.attn,2.attn,3.attn"]
NO_SUBLAYERS = {"bloom": "does not simply add", "opt": "no FFN module"}


def plans_for(family):
    texts = BLOCK_PLANS + ([] if family in NO_SUBLAYERS else SUBLAYER_PLANS)
    return [PrunePlan.parse(text) for text in texts]


def granularity_for(family):
    return Granularity.BLOCK if family in NO_SUBLAYERS else Granularity.SUBLAYER


@torch.inference_mode()
def losses(replay, plans, ids=IDS):
    """float32 (plans, rows): mean loss of each row, all plans in one trie."""
    found = {i: replay.head.losses(hidden, ids).mean(dim=1) for i, hidden in replay.states(ids, plans)}
    return torch.stack([found[i] for i in range(len(plans))])


@torch.inference_mode()
def opened(family, model):
    return open_replay(model, granularity_for(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_oracle(family):
    model, plans = tiny_model(family), plans_for(family)
    expected = torch.stack([oracle_losses(model, IDS, plan) for plan in plans])
    torch.testing.assert_close(losses(opened(family, model), plans), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_trie_equals_one_plan_at_a_time_bit_for_bit(family, dtype):
    replay, plans = opened(family, tiny_model(family).to(dtype)), plans_for(family)
    alone = torch.cat([losses(replay, [plan]) for plan in plans])
    assert torch.equal(losses(replay, plans), alone)
    assert torch.equal(losses(replay, plans[::-1]), alone.flip(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_left_exactly_as_it_was(family):
    model = tiny_model(family)
    before = copy.deepcopy(model)
    losses(opened(family, model), plans_for(family))
    assert [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in before.named_modules()]
    for (name, module), old in zip(model.named_modules(), before.modules(), strict=True):
        assert module.__dict__.keys() == old.__dict__.keys(), name
        assert "forward" not in module.__dict__, name
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name
    assert model.config.to_dict() == before.config.to_dict()
    assert all(torch.equal(old, model.state_dict()[name]) for name, old in before.state_dict().items())


@pytest.mark.parametrize("family", NO_SUBLAYERS)
def test_a_family_without_sublayers_is_refused_with_the_reason(family):
    model = tiny_model(family)
    with pytest.raises(UsageError, match=NO_SUBLAYERS[family]), torch.inference_mode():
        open_replay(model, Granularity.SUBLAYER)
    with torch.inference_mode():
        open_replay(model, Granularity.BLOCK)
    assert "bloom" in BLOCKS_ONLY


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fused_head_serves_every_family(family):
    assert type(opened(family, tiny_model(family)).head) is FusedHead


@pytest.mark.parametrize("family", ["cohere", "gemma2", "granite"])
def test_logits_scaled_in_an_unknown_way_take_the_slow_exact_path(family, monkeypatch):
    """As if the config called its scaling or capping something the fused head does not know."""
    blind = FusedHead._transformed
    monkeypatch.setattr(FusedHead, "_transformed", lambda _self, logits: logits)
    model, plans = tiny_model(family), plans_for(family)
    replay = opened(family, model)
    assert type(replay.head) is OwnHead
    expected = torch.stack([oracle_losses(model, IDS, plan) for plan in plans])
    torch.testing.assert_close(losses(replay, plans), expected, rtol=1e-5, atol=0)
    assert blind is not FusedHead._transformed


def test_logits_equal_those_of_the_pruned_model():
    from oracle import pruned_copy

    model, plan = tiny_model("llama"), PrunePlan.parse("1")
    replay = opened("llama", model)
    with torch.inference_mode():
        ((_, hidden),) = replay.states(IDS, [plan])
        ours = torch.stack(list(replay.head.logits(hidden, IDS)))
        expected = pruned_copy(model, plan)(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_some_rows_equal_all_rows_bit_for_bit():
    replay, plans = opened("llama", tiny_model("llama")), plans_for("llama")
    assert torch.equal(losses(replay, plans, IDS[1:2])[:, 0], losses(replay, plans)[:, 1])


class Leaky(torch.nn.Module):
    """A block that talks to the next one beside the hidden states."""

    def __init__(self, block, channel):
        super().__init__()
        self.block, self.channel = block, channel
        self.attention_type = getattr(block, "attention_type", None)

    def forward(self, hidden_states, *args, **kwargs):
        said = self.channel[-1] if self.channel else 0.0
        self.channel.append(float(hidden_states.mean()))
        return self.block(hidden_states + said, *args, **kwargs)


def test_blocks_that_exchange_more_than_hidden_states_are_refused():
    model, channel = tiny_model("llama"), []
    for i, block in enumerate(model.model.layers):
        model.model.layers[i] = Leaky(block, channel)
    with pytest.raises(UsageError, match="cannot be replayed"), torch.inference_mode():
        open_replay(model, Granularity.BLOCK)


def test_a_model_without_a_list_of_blocks_is_refused():
    model = tiny_model("llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(UsageError, match="No list of 7 blocks"), torch.inference_mode():
        open_replay(model, Granularity.BLOCK)


def test_forward_overridden_by_someone_else_is_put_back():
    """Device maps wrap `forward` on the instance; the replay must give that back, not remove it."""
    model = tiny_model("llama")
    block = model.model.layers[1]
    wrapped = block.forward
    block.forward = wrapped
    opened("llama", model)
    assert block.__dict__["forward"] is wrapped


@pytest.mark.parametrize(  # in bfloat16 a sum with a bias is rounded by the size of the slice: nothing to compare with
    ("dtype", "bias"), [(torch.float32, True), (torch.float32, False), (torch.bfloat16, False)]
)
def test_fused_losses_are_those_of_a_plain_cross_entropy(monkeypatch, dtype, bias):
    from types import SimpleNamespace

    monkeypatch.setattr("searcher.replay.head.SLICE", 16)
    head = torch.nn.Linear(32, 97, bias=bias, dtype=dtype)
    head.weight.data.mul_(40)  # sure enough for denormal numbers to come up
    hidden = torch.randn((3, 24, 32), generator=torch.Generator().manual_seed(0)).to(dtype)
    if bias:
        head.bias.data[32:48] = -torch.inf  # a slice of entries that never come
    ids = IDS % 32
    with torch.inference_mode():
        ours = FusedHead((), head, SimpleNamespace()).losses(hidden, ids)
        logits = head(hidden[:, :-1]).float()
        plain = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    assert torch.isfinite(ours).all()
