"""Vectors in place of what is removed: the means they claim to be, and kept only where they help."""

from dataclasses import replace

import pytest
import torch
from calibrations import TOKENS, calibration_of, final_states, heal, left_as_it_was, padded, same_bits, states_after
from families import tiny_model
from oracle import pruned_copy

from searcher.contracts.plan import Action, Granularity, PrunePlan
from searcher.healing.bias import Bias
from searcher.healing.calibration import PADDING, Meter
from searcher.replay.repair import Repair

SOME = ("llama", "gpt2", "gemma2", "gemma3_text", "falcon", "mixtral", "smollm3")
PLANS = ("0", "3", "1-2", "0.attn", "3.ffn", "0.ffn,1-2,3.attn")
PARTS = {Action.NO_ATTENTION: "attn", Action.NO_FFN: "ffn"}


def shifts(repair):
    return {place: replacement.module.shift for place, replacement in repair.after.items()}


@torch.inference_mode()
def units(calibration, granularity, **options):
    return Bias(**options).units(calibration, granularity)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("family", SOME)
def test_each_vector_is_the_mean_of_what_the_part_adds(family, first):
    """Against the model's own forward: whole, and with that part's output projection zeroed."""
    calibration = calibration_of(family)
    found = shifts(units(calibration, Granularity.SUBLAYER, gate=0, first=first))
    assert list(found) == [(b, a) for b in range(4) for a in (Action.NO_ATTENTION, Action.NO_FFN, Action.GONE)]
    model, ids = tiny_model(family), calibration.fit
    embedded = calibration.replay.embed(ids)
    entering = [embedded, *states_after(model, blocks_of(model), ids)]
    for (block, action), shift in found.items():
        without = entering[block]
        if action is not Action.GONE:
            silent = pruned_copy(model, PrunePlan.parse(f"{block}.{PARTS[action]}"))
            (without,) = states_after(silent, [blocks_of(silent)[block]], ids)
        added = (entering[block + 1] - without).double()
        expected = (added if first else added[:, 1:]).mean(dim=(0, 1))
        torch.testing.assert_close(shift.double(), expected, rtol=1e-4, atol=1e-5)


def blocks_of(model):
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4)


@pytest.mark.parametrize("family", ["bloom", "opt"])
def test_families_of_whole_blocks_alone_have_vectors_for_those(family):
    found = units(calibration_of(family), Granularity.BLOCK, gate=0).after
    assert list(found) == [(block, Action.GONE) for block in range(4)]


@pytest.mark.parametrize(
    ("granularity", "actions"),
    [
        (Granularity.BLOCK, [Action.GONE]),
        (Granularity.ATTENTION, [Action.NO_ATTENTION]),
        (Granularity.FFN, [Action.NO_FFN]),
    ],
)
def test_there_is_a_vector_for_all_that_plans_of_a_granularity_do(granularity, actions):
    found = units(calibration_of("llama"), granularity, gate=0).after
    assert list(found) == [(block, action) for block in range(4) for action in actions]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("gate", [8, 0])
def test_a_plan_gets_the_vectors_of_its_units_bit_for_bit(gate, dtype):
    calibration = calibration_of("llama", dtype)
    everything = units(calibration, Granularity.SUBLAYER, gate=gate)
    for text in PLANS:
        plan = PrunePlan.parse(text)
        assert same_bits(heal(calibration, text, Bias(gate=gate)), everything.of(plan, 4))
    for shift in shifts(everything).values():
        assert shift.dtype is dtype
        assert not shift.requires_grad
        assert not shift.is_inference()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_vector_is_kept_if_it_lowers_the_held_out_loss_of_that_removal_alone(family):
    calibration = calibration_of(family)
    all_of_them = units(calibration, Granularity.SUBLAYER, gate=0).after
    kept = units(calibration, Granularity.SUBLAYER).after
    assert 0 < len(kept) < len(all_of_them)
    for (block, action), replacement in all_of_them.items():
        plan = PrunePlan.parse(str(block) if action is Action.GONE else f"{block}.{PARTS[action]}")
        before = calibration.loss(plan, Repair())
        after = calibration.loss(plan, Repair(after={(block, action): replacement}))
        assert ((block, action) in kept) == (after < before)


def test_a_block_that_adds_a_constant_is_replaced_exactly():
    model = tiny_model("llama")
    for name, parameter in model.model.layers[2].named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.zero_()
    constant = torch.linspace(-1, 1, 32)
    down = model.model.layers[2].mlp.down_proj
    down.bias = torch.nn.Parameter(constant, requires_grad=False)
    calibration = calibration_of("llama", model=model)
    repair = heal(calibration, "2", Bias())
    ours = final_states(calibration, "2", repair, calibration.held_out)
    torch.testing.assert_close(
        ours, final_states(calibration, "dense", Repair(), calibration.held_out), rtol=1e-5, atol=1e-5
    )


def test_padding_changes_nothing():
    calibration = calibration_of("llama")
    fit, held_out = (padded(ids, PADDING) for ids in (calibration.fit, calibration.held_out))
    longer = shifts(heal(replace(calibration, fit=fit, held_out=held_out), "1,2.attn", Bias()))
    wrong = shifts(heal(replace(calibration, fit=padded(calibration.fit, 5)), "1,2.attn", Bias(gate=0)))
    expected = shifts(heal(calibration, "1,2.attn", Bias()))
    assert longer.keys() == expected.keys() != set()
    for place, shift in expected.items():
        torch.testing.assert_close(longer[place], shift, rtol=1e-4, atol=1e-5)
        assert (wrong[place] - shift).abs().max() > 1e-3


def test_numbers_that_are_none_give_no_vector():
    calibration = calibration_of("llama")
    calibration.replay.architecture.blocks[1].mlp.down_proj.weight[0, 0] = torch.nan
    assert set(shifts(heal(calibration, "0-1,3", Bias(gate=0)))) == {(0, Action.GONE)}
    assert not heal(calibration, "0-1,3", Bias())


@pytest.mark.parametrize("gate", [8, 0])
def test_the_dense_model_needs_nothing(gate):
    calibration = calibration_of("llama")
    assert not heal(calibration, "dense", Bias(gate=gate))
    assert calibration.meter == Meter()


@pytest.mark.parametrize("raised", [None, KeyboardInterrupt])
def test_the_model_is_left_exactly_as_it_was(raised):
    calls = []

    def go_on():
        calls.append(1)
        if raised and len(calls) == 8:
            raise raised

    calibration = calibration_of("gemma2", go_on=go_on)
    with left_as_it_was(calibration):
        if raised:
            with pytest.raises(raised):
                heal(calibration, "0,2.attn", Bias())
        else:
            heal(calibration, "0,2.attn", Bias())


def test_work_is_counted():
    calibration = calibration_of("llama")
    heal(calibration, "2,3.ffn", Bias(gate=0))
    assert calibration.meter.layer_forwards == pytest.approx(16 * (4 + 0.4))
    assert calibration.meter.heads == 0
    calibration = replace(calibration, meter=Meter())
    heal(calibration, "2,3.ffn", Bias())
    assert calibration.meter.layer_forwards == pytest.approx(16 * (4 + 0.4) + 5 * (4 + 0.4 + 2 * 1))
    assert calibration.meter.heads == 5 * 4
    assert calibration.fit.shape == (16, TOKENS)


def test_the_gate_looks_at_windows_of_every_document():
    calibration = replace(calibration_of("llama"), documents=(0, 0, 0, 1, 2))
    assert len(calibration.held_out) == 5
    for count, places in ((3, [1, 3, 4]), (1, [3]), (8, [0, 1, 2, 3, 4])):
        assert torch.equal(calibration.some_held_out(count), calibration.held_out[places])
