"""Losses and gradients in slices of the vocabulary, against those of full logits by autograd."""

import pytest
import torch
from families import FAMILIES, VOCABULARY, tiny_model
from torch.nn import functional as F

from searcher.contracts.plan import Granularity
from searcher.replay import head as heads
from searcher.replay.head import OwnHead
from searcher.replay.head_gradients import PADDING, HeadLoss, head_gradient, soft_targets
from searcher.replay.self_check import open_replay

LOSSES = {
    "text": HeadLoss(),
    "kl": HeadLoss(0.0, 1.0),
    "warm kl": HeadLoss(0.0, 1.0, 2.5),
    "cold mix": HeadLoss(0.3, 2.0, 0.5),
}


def case(family, dtype=torch.float32, own=False):
    """A replay, states of a model gone astray, labels with some padding, and the dense model's states."""
    model = tiny_model(family).to(dtype)
    with torch.inference_mode():
        replay = open_replay(model, Granularity.BLOCK)
    if own:
        replay.use_own_head()
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, VOCABULARY, (3, 12), generator=generator)
    with torch.no_grad():
        dense = replay.embed(labels)
        for block in range(replay.num_blocks):
            dense = replay.run_block(dense, block, 0)
    noise = torch.randn(dense.shape, generator=generator).to(dtype)
    labels[1, 7:] = PADDING
    return replay, dense + 0.5 * dense.std() * noise, labels, dense


def by_full_logits(replay, hidden, labels, loss, dense):
    """The textbook's way."""
    leaf = hidden.detach().clone().requires_grad_()
    own = OwnHead(replay.model, replay.architecture, replay.outputs)
    real, ids = labels[:, 1:] != PADDING, labels.clamp(min=0)
    logits = torch.stack([*own.logits(leaf, ids)])[:, :-1].float()[real]
    with torch.no_grad():
        wanted = torch.stack([*own.logits(dense, ids)])[:, :-1].float()[real]
    t = loss.temperature
    kl = (F.softmax(wanted / t, -1) * (F.log_softmax(wanted / t, -1) - F.log_softmax(logits / t, -1))).sum(-1).mean()
    total = loss.text * F.cross_entropy(logits, labels[:, 1:][real]) + loss.kl * t**2 * kl
    return total.item(), torch.autograd.grad(total, leaf)[0]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("own", [False, True], ids=["fused", "own"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "granite", "gpt2", "phi"])
def test_slices_give_the_gradient_of_full_logits(family, own, loss, monkeypatch):
    """Scaled, divided, capped logits and a head with a bias among them; slices that do not divide the vocabulary."""
    monkeypatch.setattr(heads, "SLICE", 7)
    replay, hidden, labels, dense = case(family, own=own)
    targets = soft_targets(replay.head, dense, loss.temperature) if loss.kl else None
    found, gradient = head_gradient(replay.head, hidden, labels, loss, targets)
    expected, by_autograd = by_full_logits(replay, hidden, labels, loss, dense)
    assert found == pytest.approx(expected, rel=1e-5, abs=5e-6)  # a small divergence is a difference of large sums
    torch.testing.assert_close(gradient, by_autograd, rtol=1e-5, atol=1e-5 * float(by_autograd.abs().max()))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("llama", "gemma2", "cohere")])
def test_every_family_has_it(family):
    replay, hidden, labels, dense = case(family)
    loss = LOSSES["cold mix"]
    found, gradient = head_gradient(replay.head, hidden, labels, loss, soft_targets(replay.head, dense, 0.5))
    expected, by_autograd = by_full_logits(replay, hidden, labels, loss, dense)
    assert found == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(gradient, by_autograd, rtol=1e-4, atol=1e-4 * float(by_autograd.abs().max()))


def test_the_dense_model_is_not_far_from_itself():
    replay, _, labels, dense = case("llama")
    loss, gradient = head_gradient(replay.head, dense, labels, HeadLoss(0.0, 1.0), soft_targets(replay.head, dense, 1))
    assert loss == pytest.approx(0, abs=1e-6)
    assert float(gradient.abs().max()) < 1e-7


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_comes_near_to_float32(name):
    loss = LOSSES[name]
    replay, hidden, labels, dense = case("llama", torch.bfloat16)
    found, gradient = head_gradient(
        replay.head, hidden, labels, loss, soft_targets(replay.head, dense, loss.temperature)
    )
    replay.model.float()
    wide = hidden.float(), labels, loss, dense.float()
    expected, by_autograd = by_full_logits(replay, *wide)
    assert found == pytest.approx(expected, rel=0.02, abs=0.01)
    assert torch.cosine_similarity(gradient.float().flatten(), by_autograd.flatten(), dim=0) > 0.995


def test_no_tensor_grows_with_the_vocabulary(monkeypatch):
    """The largest result of any operation has a slice's columns at most, and not the vocabulary's."""
    monkeypatch.setattr(heads, "SLICE", 16)
    replay, hidden, labels, dense = case("llama")
    assert replay.head.vocabulary > 5 * 16
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            given = {t.data_ptr() for t in args if isinstance(t, torch.Tensor)}
            if isinstance(out, torch.Tensor) and out.data_ptr() not in given:
                sizes.append(out.numel())
            return out

    with Watch():
        targets = soft_targets(replay.head, dense, 1.0)
        head_gradient(replay.head, hidden, labels, HeadLoss(1.0, 1.0), targets)
    assert max(sizes) <= labels.numel() * max(16, hidden.shape[-1])
