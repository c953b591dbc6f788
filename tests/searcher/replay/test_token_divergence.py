"""Divergences from the dense model equal those of full logits, for every kind of head."""

import pytest
import torch
from families import VOCABULARY, tiny_model

from searcher.contracts.plan import Granularity, PrunePlan
from searcher.evaluation.candidate import Heads
from searcher.replay import head as head_module
from searcher.replay import token_divergence as divergence_module
from searcher.replay.self_check import open_replay
from searcher.replay.token_divergence import Linear, RowByRow, Sliced, refer

IDS = torch.randint(VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(7))
KINDS = ["kl", "js"]


@pytest.fixture(autouse=True)
def _several_slices(monkeypatch):
    monkeypatch.setattr(head_module, "SLICE", 40)
    monkeypatch.setattr(divergence_module, "TOP", 5)


def opened(family="llama", dtype=torch.float32, own_head=False):
    """A replay, and the hidden states of the dense model, of one without block 1, and of one without two sublayers."""
    replay = open_replay(tiny_model(family).to(dtype), Granularity.SUBLAYER)
    if own_head:
        replay.use_own_head()
    plans = [PrunePlan.parse(plan) for plan in ("dense", "1", "0.attn,3.ffn")]
    states = dict(replay.states(IDS, plans))
    return replay, [states[i] for i in range(len(plans))]


def measured(kind, replay, dense, hidden):
    head = replay.head
    return refer(kind, head, dense, IDS).divergence(head, hidden, IDS, lambda: head.losses(hidden, IDS))


def expected(kind, replay, dense, hidden):
    """By full logits in float64."""
    logits = [torch.stack(list(replay.head.logits(state, IDS)))[:, :-1].double() for state in (dense, hidden)]
    log_p, log_q = (z.log_softmax(dim=-1) for z in logits)
    if kind == "kl":
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    log_m = ((log_p.exp() + log_q.exp()) / 2).log()
    return (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(dim=-1) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own_head", [False, True])
@pytest.mark.parametrize("family", ["llama", "phi", "cohere", "granite", "gemma2"])  # bias, scale, divisor, cap
@torch.inference_mode()
def test_equals_a_direct_computation(family, own_head, kind):
    replay, (dense, *others) = opened(family, own_head=own_head)
    for hidden in others:
        direct = expected(kind, replay, dense, hidden)
        assert direct.mean() > 1e-3
        torch.testing.assert_close(measured(kind, replay, dense, hidden).double(), direct, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("family", "own_head"), [("llama", False), ("phi", False), ("gemma2", False), ("llama", True)])
@torch.inference_mode()
def test_the_dense_model_is_at_zero(family, own_head, dtype, kind):
    replay, (dense, *_) = opened(family, dtype, own_head)
    assert not measured(kind, replay, dense, dense).any()


@torch.inference_mode()
def test_rounded_logits_do_not_shift_the_mean(monkeypatch):
    replay, (dense, *others) = opened("phi", torch.bfloat16)
    for hidden in others:
        direct = expected("kl", replay, dense, hidden)
        error = (measured("kl", replay, dense, hidden) - direct).abs().mean()
        monkeypatch.setattr(divergence_module, "TOP", 0)
        unrounded = (measured("kl", replay, dense, hidden) - direct).abs().mean()
        monkeypatch.setattr(divergence_module, "TOP", 16)
        assert error < unrounded / 2
        assert error < 0.01 * direct.mean()


@torch.inference_mode()
def test_js_is_bounded_where_the_models_share_no_token():
    log_p, log_q = torch.full((1, 2), -200.0), torch.full((1, 2), -200.0)
    log_p[0, 0] = log_q[0, 1] = 0
    terms = divergence_module._jensen_shannon(log_p, log_q)
    assert terms.sum().item() == pytest.approx(0.6931472, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_no_model_gives_add_nothing(kind):
    logits = [torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([[1.0, 0.0, -torch.inf]])]
    of_all = divergence_module._summed(
        kind, [(logits[0].clone(), logits[1].clone())], *(z.logsumexp(1) for z in logits)
    )
    short = [z[:, :2] for z in logits]
    of_two = divergence_module._summed(kind, [(short[0], short[1])], *(z.logsumexp(1) for z in logits))
    assert of_all.item() == pytest.approx(of_two.item())
    assert of_two > 0.1


@pytest.mark.parametrize(
    ("family", "own_head", "kind", "way"),
    [
        ("llama", False, "kl", Linear),
        ("cohere", False, "kl", Linear),
        ("gemma2", False, "kl", Sliced),
        ("llama", False, "js", Sliced),
        ("llama", True, "kl", RowByRow),
    ],
)
@torch.inference_mode()
def test_the_cheapest_exact_way_is_taken_and_rows_can_be_selected(family, own_head, kind, way):
    replay, (dense, hidden, _) = opened(family, own_head=own_head)
    reference = refer(kind, replay.head, dense, IDS)
    assert type(reference) is way
    whole = measured(kind, replay, dense, hidden)
    part, ids = hidden[[0, 2]], IDS[[0, 2]]
    found = reference.select((0, 2)).divergence(replay.head, part, ids, lambda: replay.head.losses(part, ids))
    torch.testing.assert_close(found, whole[[0, 2]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_plans_replayed_together_have_the_bits_of_each(kind):
    replay, states = opened()
    reference, together = (
        refer(kind, replay.head, states[0], IDS),
        Heads(replay, IDS, torch.ones_like(IDS[:, 1:]).bool(), states, (2, 1)),
    )
    for i, hidden in enumerate(states):
        alone = measured(kind, replay, states[0], hidden)
        batched = reference.divergence(replay.head, hidden, IDS, lambda i=i: together.losses(i))
        assert torch.equal(alone, batched)
