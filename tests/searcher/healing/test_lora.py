"""LoRA on tiny models of many families: what it learns is merged right, and the model stays what it was."""

import copy
from dataclasses import replace

import pytest
import torch
from families import BLOCKS_ONLY, FAMILIES, VOCABULARY, tiny_model
from torch.nn import functional as F

from searcher.contracts.cost import Prices
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.contracts.registry import make
from searcher.errors import UsageError
from searcher.healing.adapters import AdapterOptions, Adapters, find_layers
from searcher.healing.calibration import PADDING, CalibrationSet, Meter
from searcher.healing.contract import DivergedError
from searcher.healing.lora import Lora
from searcher.replay.head_gradients import HeadLoss, head_gradient
from searcher.replay.pruned_model import pruned
from searcher.replay.repair import LowRank, Repair
from searcher.replay.self_check import open_replay

TOKENS = 24  # longer than any sliding window
PRICES = Prices((1.0, 0.6, 0.4, 0.0), head=2.0)
SMALL = Lora(steps=6, rank=2, lr=1e-2, batch=2, patience=0, loss="text")
SOME = ("llama", "gpt2", "gemma2", "falcon", "mixtral", "opt", "bloom")


def text(windows, seed):
    """Counting upwards from a random token: easy to learn, and a random model does not know it."""
    start = torch.randint(3, VOCABULARY, (windows, 1), generator=torch.Generator().manual_seed(seed))
    return 3 + (start + torch.arange(TOKENS)) % (VOCABULARY - 3)


def calibration_of(family, dtype=torch.float32, **options):
    model = tiny_model(family).to(dtype)
    granularity = Granularity.BLOCK if family in (*BLOCKS_ONLY, "opt") else Granularity.SUBLAYER
    with torch.inference_mode():
        replay = open_replay(model, granularity)
    return CalibrationSet(replay, text(8, seed=0), text(5, seed=1), PRICES, **options)


@torch.inference_mode()
def heal(calibration, plan, healing=SMALL):
    return healing.heal(calibration, PrunePlan.parse(plan))


@torch.inference_mode()
def loss(calibration, plan, repair=None):
    return calibration.loss(PrunePlan.parse(plan), repair or Repair())


def plans_for(family):
    return ["dense", "1-2", "3"] if family in (*BLOCKS_ONLY, "opt") else ["dense", "1-2", "0.attn,2.ffn,3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_in_every_family(family):
    calibration = calibration_of(family)
    for plan in plans_for(family):
        repair = heal(calibration, plan, replace(SMALL, steps=8, batch=4, lr=2e-2))
        assert loss(calibration, plan, repair) < loss(calibration, plan) - 1e-3, plan
        own = dict(calibration.replay.model.named_parameters())
        assert repair.added
        for name, added in repair.added.items():
            assert added.left.dtype == added.right.dtype == torch.float32
            assert (added.left @ added.right).shape == own[name].shape, name
            assert added.left.shape[1] == 2
            assert not added.left.requires_grad
            assert not added.left.is_inference()


@pytest.mark.parametrize("family", SOME)
def test_the_merged_model_has_the_loss_of_the_adapted_one(family):
    """The model's own pruned forward with adapters, against the replay with merged weights."""
    calibration, plan = calibration_of(family), PrunePlan.parse(plans_for(family)[-1])
    replay = calibration.replay
    layers = find_layers(replay.model, replay.architecture, plan, [b for b in range(4) if plan.action(b) != 3])
    adapters = Adapters(replay.model, layers, AdapterOptions(2, 3.0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapters.parameters:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    ids = calibration.held_out
    with torch.no_grad(), adapters.in_place(), pruned(replay.model, replay.architecture, replay.outputs, plan) as model:
        logits = model(input_ids=ids, use_cache=False).logits
    adapted = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
    merged = loss(calibration, str(plan), Repair(added=adapters.factors()))
    assert merged == pytest.approx(adapted, abs=1e-4)
    assert abs(merged - loss(calibration, str(plan))) > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_was_found_is_learnt_further(family):
    calibration, plan = calibration_of(family), PrunePlan.parse("1")
    layers = find_layers(calibration.replay.model, calibration.replay.architecture, plan, [2])
    before = heal(calibration, "1", replace(SMALL, where="after")).added
    adapters = Adapters(calibration.replay.model, layers, AdapterOptions(SMALL.rank, SMALL.alpha, seed=5), before)
    after = adapters.factors()
    assert after.keys() == before.keys()
    for name, added in before.items():
        torch.testing.assert_close(after[name].left @ after[name].right, added.left @ added.right)
        assert added.left.abs().max() > 0


def test_the_check_of_a_fit_is_the_loss_of_the_calibration_set():
    checks = []
    calibration = calibration_of("llama", watch=checks.append)
    repair = heal(calibration, "1-2")
    assert checks[0].held_out == loss(calibration, "1-2")
    assert min(check.held_out for check in checks) == loss(calibration, "1-2", repair)


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize("raised", [None, ZeroDivisionError, KeyboardInterrupt])
def test_the_model_is_left_exactly_as_it_was(family, raised):
    calls = []

    def go_on():
        calls.append(1)
        if raised and len(calls) == 4:
            raise raised

    calibration = calibration_of(family, go_on=go_on)
    model = calibration.replay.model
    model.get_output_embeddings().requires_grad_(True)  # whoever trains the model himself finds that as it was, too
    before, modules = copy.deepcopy(model), list(model.modules())
    rng = torch.get_rng_state()
    healing = replace(SMALL, iterative=True)
    if raised:
        with pytest.raises(raised):
            heal(calibration, "1-2", healing)
    else:
        heal(calibration, "1-2", healing)
    assert calls
    assert torch.equal(torch.get_rng_state(), rng)
    assert len(modules) == len(list(model.modules()))
    assert all(now is then for now, then in zip(model.modules(), modules, strict=True))
    for (name, module), old in zip(model.named_modules(), before.modules(), strict=True):
        assert module.__dict__.keys() == old.__dict__.keys(), name
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name
        assert module.training == old.training, name
    assert model.config.to_dict() == before.config.to_dict()
    for (name, parameter), old in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, old), name
        assert parameter.requires_grad == old.requires_grad, name
        assert parameter.grad is None, name
    assert not calibration.replay.after


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_bits(dtype):
    calibration = calibration_of("llama", dtype)
    first, second, other = (
        heal(calibration, "1-2"),
        heal(calibration, "1-2"),
        heal(calibration, "1-2", replace(SMALL, seed=1)),
    )
    assert first.added.keys() == second.added.keys()
    for name, added in first.added.items():
        assert torch.equal(added.left, second.added[name].left)
        assert torch.equal(added.right, second.added[name].right)
    assert any(not torch.equal(added.right, other.added[name].right) for name, added in first.added.items())


def test_half_precision_learns_in_float32():
    calibration = calibration_of("llama", torch.bfloat16)
    repair = heal(calibration, "1-2")
    assert loss(calibration, "1-2", repair) < loss(calibration, "1-2")
    assert any((added.left != added.left.bfloat16()).any() for added in repair.added.values())


def adapted(calibration, plan, **options):
    """The blocks whose weights are added to, and whether only linear layers' are."""
    names = heal(calibration, plan, replace(SMALL, **options)).added
    assert all(name.startswith("model.layers.") and "norm" not in name for name in names)
    return sorted({int(name.split(".")[2]) for name in names})


def test_where_chooses_the_blocks():
    calibration = calibration_of("llama")
    assert adapted(calibration, "1") == [0, 2, 3]
    assert adapted(calibration, "1", where="after") == [2]
    assert adapted(calibration, "0,2", where="after") == [1, 3]
    assert adapted(calibration, "3", where="after") == [2]  # none follows
    assert adapted(calibration, "0.attn,1.ffn", where="after") == [0, 2]
    assert adapted(calibration, "dense", where="after") == [0, 1, 2, 3]
    assert heal(calibration, "0-3").added == {}


def test_silent_sublayers_get_no_adapter():
    names = heal(calibration_of("llama"), "0.attn,2.ffn").added
    assert not any(name.startswith(("model.layers.0.self_attn", "model.layers.2.mlp")) for name in names)
    assert any(name.startswith("model.layers.0.mlp") for name in names)
    assert any(name.startswith("model.layers.2.self_attn") for name in names)


def test_gpt2s_turned_layers_are_all_adapted():
    names = heal(calibration_of("gpt2"), "1").added
    parts = {name.split(".", 3)[3] for name in names}
    assert parts == {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}


def stages(plan, steps=10, where="after"):
    made = Lora(steps=steps, iterative=True, where=where).stages(PrunePlan.parse(plan), 6)
    return [(str(stage.plan), stage.blocks, stage.first, stage.steps) for stage in made]


def test_the_iterative_procedure_removes_one_unit_after_another():
    assert stages("1,3-4") == [("1", (2,), 0, 3), ("1,3", (5,), 3, 3), ("1,3-4", (5,), 6, 4)]
    assert stages("1.attn,5") == [("1.attn", (1,), 0, 5), ("1.attn,5", (4,), 5, 5)]
    assert stages("1,3", where="all") == [("1", (0, 2, 4, 5), 0, 5), ("1,3", (0, 2, 4, 5), 5, 5)]
    assert stages("0-2", steps=1) == [("0-2", (3,), 0, 1)]
    assert stages("dense") == [("dense", (0, 1, 2, 3, 4, 5), 0, 10)]


def test_the_iterative_procedure_keeps_what_it_found():
    checks = []
    calibration = calibration_of("llama", watch=checks.append)
    repair = heal(calibration, "0,2", replace(SMALL, iterative=True, where="after"))
    assert [check.step for check in checks] == [0, 3, 3, 6]
    first = heal(calibration, "0", replace(SMALL, steps=3, where="after"))
    assert first.added.keys() < repair.added.keys()
    for name, added in first.added.items():
        assert torch.equal(added.left, repair.added[name].left)
    assert checks[2].held_out == loss(calibration, "0,2", first)
    assert loss(calibration, "0,2", repair) < loss(calibration, "0,2")


def padded(ids, filler):
    return torch.cat([ids, torch.full((len(ids), 8), filler)], dim=1)


def test_padding_changes_nothing():
    """Rows with padding at the end, against rows without: the same loss, the same gradients, the same repair."""
    calibration = calibration_of("llama")
    fit, held_out = (padded(ids, PADDING) for ids in (calibration.fit, calibration.held_out))
    longer = replace(calibration, fit=fit, held_out=held_out, meter=Meter())
    wrong = replace(
        calibration, fit=padded(calibration.fit, 5), held_out=padded(calibration.held_out, 5), meter=Meter()
    )
    assert loss(longer, "1") == pytest.approx(loss(calibration, "1"), abs=1e-6)
    assert abs(loss(wrong, "1") - loss(calibration, "1")) > 1e-2
    short, long, other = (heal(p, "1").added for p in (calibration, longer, wrong))
    for name in short:
        torch.testing.assert_close(long[name].left, short[name].left, rtol=1e-3, atol=1e-4)
    assert any((other[name].left - short[name].left).abs().max() > 1e-2 for name in short)
    assert longer.meter.tokens == calibration.meter.tokens == 6 * 2 * TOKENS


@pytest.mark.parametrize("family", ["llama", "cohere", "gemma2"])
def test_the_gradient_is_that_of_a_plain_cross_entropy(family):
    head = calibration_of(family).replay.head
    hidden = torch.randn((3, TOKENS, 32), generator=torch.Generator().manual_seed(0))
    ids = text(3, seed=2)
    ids[1, 20:] = PADDING
    found, gradient = head_gradient(head, hidden.clone(), ids, HeadLoss())
    leaf = hidden.clone().requires_grad_()
    logits = torch.stack(list(head.logits(leaf, ids.clamp(min=0))))
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PADDING)
    assert found == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])
    assert not gradient[1, 20:].any()


def test_work_is_counted():
    calibration = calibration_of("llama")
    heal(calibration, "1,2.ffn", replace(SMALL, steps=2))  # checks before and after
    blocks = 2 + PRICES.weight[2]
    assert calibration.meter.layer_forwards == pytest.approx(blocks * (2 * 2 * 3 + 2 * 5))
    assert calibration.meter.heads == pytest.approx(2 * 2 * 3 + 2 * 5)
    assert calibration.meter.tokens == 2 * 2 * TOKENS


def test_a_learning_rate_that_is_too_high_is_an_error():
    with pytest.raises(DivergedError, match="Healing 'lora' diverged at step"):
        heal(calibration_of("llama"), "1", Lora(steps=20, lr=1e30, batch=2, patience=0))


def test_options_are_checked():
    assert make("healing", "lora", {"steps": "20", "iterative": "true", "where": "after"}) == Lora(
        steps=20, iterative=True, where="after"
    )
    for option, value in {"steps": "0", "rank": "0", "lr": "0", "where": "before", "patience": "-1"}.items():
        with pytest.raises(UsageError, match=f"Option '{option}'"):
            make("healing", "lora", {option: value})


def test_repairs_add_up():
    one = LowRank(torch.ones(3, 1), torch.ones(1, 4))
    assert torch.equal((one + one).left @ (one + one).right, torch.full((3, 4), 2.0))
