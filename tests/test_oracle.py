"""The oracle itself: does every removal matter, and is nothing left behind?"""

import copy

import pytest
import torch
from families import BLOCKS_ONLY, FAMILIES, VOCABULARY, WINDOW, tiny_model
from oracle import oracle_losses, pruned_copy

from searcher.contracts.plan import PrunePlan

IDS = torch.randint(VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(1))  # longer than any window
SUBLAYERS = [family for family in FAMILIES if family not in BLOCKS_ONLY]
READ_BY_POSITION = ["qwen2", "gemma2", "gemma3_text", "olmo3", "cohere2", "gpt_oss", "exaone4"]


def losses(family, plan, model=None):
    return oracle_losses(model or tiny_model(family), IDS, PrunePlan.parse(plan))


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_is_the_models_own_loss(family):
    model = tiny_model(family)
    expected = torch.stack([model(input_ids=row, labels=row, use_cache=False).loss for row in IDS.split(1)])
    torch.testing.assert_close(losses(family, "dense", model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_matters(family):
    model = tiny_model(family)
    outcomes = [losses(family, plan, model) for plan in ("dense", "0", "1", "2", "3", "0-3")]
    assert all(torch.isfinite(outcome).all() for outcome in outcomes)
    assert closest(outcomes) > 1e-3


@pytest.mark.parametrize("family", SUBLAYERS)
def test_every_sublayer_matters(family):
    model = tiny_model(family)
    outcomes = [losses(family, f"{i}.{part}", model) for i in range(4) for part in ("attn", "ffn")]
    assert closest([losses(family, "dense", model), *outcomes]) > 1e-3


@pytest.mark.parametrize("family", SUBLAYERS)
def test_both_sublayers_gone_is_the_block_gone(family):
    model = tiny_model(family)
    zeroed = pruned_copy(pruned_copy(model, PrunePlan.parse("1.attn")), PrunePlan.parse("1.ffn"))
    torch.testing.assert_close(losses(family, "dense", zeroed), losses(family, "1", model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_leaves_the_model_as_it_was(family):
    model = tiny_model(family)
    weights, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    losses(family, "0,2", model)
    assert model.config.to_dict() == config
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", READ_BY_POSITION)
def test_config_lists_must_be_filtered(family):
    """These families look up what a block is by its position: without the filter the oracle would be wrong.

    Gemma 3 looks up its rotary frequencies there too; for the others it shows once a window is full.
    """
    model = tiny_model(family)
    wrong = pruned_copy(model, PrunePlan.parse("0"))
    wrong.config.layer_types = model.config.layer_types[:3]
    logits = wrong(input_ids=IDS, use_cache=False).logits
    right = pruned_copy(model, PrunePlan.parse("0"))(input_ids=IDS, use_cache=False).logits
    assert (logits - right)[:, WINDOW:].abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_seed_decides_the_weights(family):
    first, again, other = tiny_model(family), tiny_model(family), tiny_model(family, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def closest(outcomes):
    """The smallest difference, in any window, between two of these outcomes: all must differ."""
    return min(float((a - b).abs().max()) for i, a in enumerate(outcomes) for b in outcomes[:i])
