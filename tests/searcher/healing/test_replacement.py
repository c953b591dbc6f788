"""Modules that fill gaps: causal, residual, learnt, and the same in the replay as in the model's own forward."""

import copy
from dataclasses import replace

import pytest
import torch
from calibrations import final_states, heal
from families import FAMILIES, VOCABULARY, tiny_model

from searcher.architecture.replacement_modules import FFN, SwiGLU
from searcher.contracts.cost import Prices
from searcher.contracts.plan import Action, Granularity, PrunePlan
from searcher.contracts.registry import make
from searcher.errors import UsageError
from searcher.healing.calibration import PADDING, CalibrationSet, Meter
from searcher.healing.contract import DivergedError
from searcher.healing.replacement import Ffn, Layer, Swiglu, blank, drawn, find_gaps
from searcher.replay.pruned_model import pruned
from searcher.replay.repair import Repair
from searcher.replay.self_check import open_replay

TOKENS = 24  # longer than any sliding window
OPTIONS = {"steps": 12, "lr": 1e-2, "batch": 2, "patience": 0}
HEALINGS = {"layer": Layer(**OPTIONS | {"lr": 1e-3}), "ffn": Ffn(**OPTIONS), "swiglu": Swiglu(**OPTIONS)}
SOME = ("llama", "gpt2", "gemma2", "gemma3_text", "falcon", "mixtral", "bloom", "smollm3")


def calibration_of(family, dtype=torch.float32, num_blocks=4, **options):
    model = tiny_model(family, num_blocks=num_blocks).to(dtype)
    with torch.inference_mode():
        replay = open_replay(model, Granularity.BLOCK)
    ids = torch.randint(3, VOCABULARY, (21, TOKENS), generator=torch.Generator().manual_seed(3))
    return CalibrationSet(replay, ids[:16], ids[16:], Prices((1.0, 0.6, 0.4, 0.0), head=2.0), **options)


@pytest.mark.parametrize("name", HEALINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_in_every_family(family, name):
    checks = []
    calibration = calibration_of(family, watch=checks.append)
    calibration = replace(
        calibration, held_out=calibration.fit
    )  # so little text teaches a random model nothing about other text
    repair = heal(calibration, "1-2", HEALINGS[name])
    assert list(repair.after) == [(2, Action.GONE)]
    assert repair.added == repair.weights == {}
    assert checks[-1].step == 12
    assert min(check.held_out for check in checks) < 0.99 * checks[0].held_out
    for parameter in repair.after[2, Action.GONE].module.parameters():
        assert not parameter.requires_grad
        assert not parameter.is_inference()


@pytest.mark.parametrize("name", HEALINGS)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mistral", "gpt2"])
def test_changing_the_last_token_changes_no_earlier_output(family, name):
    calibration = calibration_of(family)
    repair = heal(calibration, "1-2", HEALINGS[name])
    ids = calibration.held_out.clone()
    before = final_states(calibration, "1-2", repair, ids)
    ids[:, -1] = (ids[:, -1] + 1) % VOCABULARY
    after = final_states(calibration, "1-2", repair, ids)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


def test_the_layer_attends_to_earlier_tokens_within_its_window():
    """Block 0 of this model has a sliding window of 8 tokens: so has what takes the place of blocks 0 and 1."""
    calibration = calibration_of("gemma3_text", num_blocks=2)
    repair = heal(calibration, "0-1", HEALINGS["layer"])
    ids = calibration.held_out.clone()
    before = final_states(calibration, "0-1", repair, ids)
    ids[:, 4] = (ids[:, 4] + 1) % VOCABULARY
    moved = (before != final_states(calibration, "0-1", repair, ids)).any(dim=-1).all(dim=0)
    assert moved.tolist() == [4 <= token < 12 for token in range(TOKENS)]


@pytest.mark.parametrize("name", ["ffn", "swiglu"])
def test_they_add_to_the_states_and_begin_by_adding_nothing(name):
    calibration = calibration_of("llama")
    module = heal(calibration, "1-2", replace(HEALINGS[name], steps=0)).after[2, Action.GONE].module
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module(hidden), hidden)
    trained = heal(calibration, "1-2", HEALINGS[name]).after[2, Action.GONE].module
    trained.norm.weight.data.zero_()  # its branch sees nothing now
    bias = trained.down.bias if name == "ffn" else 0
    torch.testing.assert_close(trained(hidden), hidden + (bias + branch_at_zero(trained) if name == "ffn" else 0))


def branch_at_zero(module):
    return torch.nn.functional.gelu(module.up.bias) @ module.down.weight.t()


@pytest.mark.parametrize("family", SOME)
def test_a_layer_in_a_gap_of_one_block_begins_as_that_block(family):
    calibration = calibration_of(family)
    repair = heal(calibration, "2", Layer(steps=0, batch=2))
    ours = final_states(calibration, "2", repair, calibration.held_out)
    assert torch.equal(ours, final_states(calibration, "dense", Repair(), calibration.held_out))
    assert repair.after[2, Action.GONE].module is not calibration.replay.architecture.blocks[2]


@pytest.mark.parametrize("name", HEALINGS)
def test_every_gap_is_filled_and_sees_what_fills_the_ones_before(name):
    calibration, healing = calibration_of("llama"), HEALINGS[name]
    both, first, second = (heal(calibration, plan, healing).after for plan in ("0-1,3", "0-1", "3"))
    assert list(both) == [(1, Action.GONE), (3, Action.GONE)]
    assert states_equal(both[1, Action.GONE], first[1, Action.GONE])
    assert not states_equal(both[3, Action.GONE], second[3, Action.GONE])


def states_equal(one, other):
    pairs = zip(one.module.state_dict().values(), other.module.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", HEALINGS)
def test_the_same_seed_gives_the_same_bits_in_the_models_dtype(name, dtype):
    calibration, place, rng = calibration_of("llama", dtype), (2, Action.GONE), torch.get_rng_state()
    first, second = (heal(calibration, "1-2", HEALINGS[name]).after[place] for _ in range(2))
    other = heal(calibration, "1-2", replace(HEALINGS[name], seed=1)).after[place]
    assert states_equal(first, second)
    assert not states_equal(first, other)
    assert {parameter.dtype for parameter in first.module.parameters()} == {dtype}
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("name", HEALINGS)
@pytest.mark.parametrize("family", SOME)
def test_the_models_own_forward_and_cached_generation_equal_the_replay(family, name):
    calibration, plan = calibration_of(family), PrunePlan.parse("0,2")
    repair, replay = heal(calibration, "0,2", HEALINGS[name]), calibration.replay
    ids = calibration.held_out[:2]
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    with torch.inference_mode(), pruned(replay.model, replay.architecture, replay.outputs, plan, repair) as model:
        own = model(input_ids=ids, use_cache=False).logits
        cached = model.generate(ids, use_cache=True, **settings)
        plain = model.generate(ids, use_cache=False, **settings)
    with torch.inference_mode():
        ours = torch.stack(list(replay.head.logits(final_states(calibration, "0,2", repair, ids), ids)))
    torch.testing.assert_close(own, ours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        cached.logits, plain.logits, rtol=1e-4, atol=1e-4
    )  # of a wrong mask, tokens may tell nothing
    assert torch.equal(cached.sequences, plain.sequences)
    assert cached.sequences.shape == (2, TOKENS + 12)


@pytest.mark.parametrize("name", HEALINGS)
def test_the_check_of_a_fit_is_the_held_out_error(name):
    """Of the last block, so that what should leave is what the dense model ends with."""
    checks = []
    calibration = calibration_of("llama", watch=checks.append)
    repair = heal(calibration, "2-3", HEALINGS[name])
    wanted = final_states(calibration, "dense", Repair(), calibration.held_out)
    for check, found in ((min(checks, key=lambda c: c.held_out), repair), (checks[0], None)):
        begun = found or heal(replace(calibration, watch=lambda _: None), "2-3", replace(HEALINGS[name], steps=0))
        left = final_states(calibration, "2-3", begun, calibration.held_out)
        error = (left - wanted).square().mean()
        assert check.held_out == pytest.approx(float(error), rel=1e-4)


def test_the_relative_error_is_by_the_norm_of_each_token():
    checks = []
    calibration = calibration_of("llama", watch=checks.append)
    heal(calibration, "2-3", replace(HEALINGS["ffn"], steps=0, error="relative"))
    left, wanted = (final_states(calibration, plan, Repair(), calibration.held_out) for plan in ("2-3", "dense"))
    error = ((left - wanted).square().sum(-1) / wanted.square().sum(-1)).mean()
    assert checks[0].held_out == pytest.approx(float(error), rel=1e-4)


@pytest.mark.parametrize("name", HEALINGS)
def test_padding_changes_nothing(name):
    calibration = calibration_of("llama")
    fit, held_out = (padded(ids, PADDING) for ids in (calibration.fit, calibration.held_out))
    longer = replace(calibration, fit=fit, held_out=held_out, meter=Meter())
    wrong = replace(
        calibration, fit=padded(calibration.fit, 5), held_out=padded(calibration.held_out, 5), meter=Meter()
    )
    one, same, other = (
        final_states(calibration, "1-2", heal(p, "1-2", HEALINGS[name]), calibration.held_out)
        for p in (calibration, longer, wrong)
    )
    torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-3)
    assert (one - other).abs().max() > 1e-2
    assert longer.meter.tokens == calibration.meter.tokens == 12 * 2 * TOKENS


def padded(ids, filler):
    return torch.cat([ids, torch.full((len(ids), 8), filler)], dim=1)


@pytest.mark.parametrize("name", HEALINGS)
@pytest.mark.parametrize("raised", [None, KeyboardInterrupt])
def test_the_model_is_left_exactly_as_it_was(name, raised):
    calls = []

    def go_on():
        calls.append(1)
        if raised and len(calls) == 15:  # in the second gap
            raise raised

    calibration = calibration_of("gemma2", go_on=go_on)
    model, modules = calibration.replay.model, list(calibration.replay.model.modules())
    before = copy.deepcopy(model)
    if raised:
        with pytest.raises(raised):
            heal(calibration, "0,2", HEALINGS[name])
    else:
        heal(calibration, "0,2", HEALINGS[name])
    assert all(now is then for now, then in zip(model.modules(), modules, strict=True))
    for module, old in zip(model.modules(), before.modules(), strict=True):
        assert module.__dict__.keys() == old.__dict__.keys()
        assert getattr(module, "layer_idx", None) == getattr(old, "layer_idx", None)
    for parameter, old in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, old)
        assert not parameter.requires_grad
        assert parameter.grad is None
    assert not calibration.replay.after


def test_the_copied_block_shares_the_models_config():
    calibration = calibration_of("gemma2")
    module = heal(calibration, "2", Layer(steps=0)).after[2, Action.GONE].module
    assert module.self_attn.config is calibration.replay.model.config


def test_work_is_counted():
    calibration = calibration_of("llama")
    heal(calibration, "1-2", replace(HEALINGS["layer"], steps=2))
    dense, prefix, steps, checks = 3 * 21, 1 * 21, 2 * 2 * 3, 2 * 5  # before the first step and after the last
    assert calibration.meter.layer_forwards == pytest.approx(dense + prefix + steps + checks)
    assert calibration.meter.tokens == 2 * 2 * TOKENS


def test_gaps_are_runs_of_blocks():
    assert find_gaps("ffn", PrunePlan.parse("0,2-4,6-7")) == [(0, 0), (2, 4), (6, 7)]
    assert find_gaps("ffn", PrunePlan()) == []


@pytest.mark.parametrize("name", HEALINGS)
def test_plans_of_sublayers_are_refused_and_the_dense_model_needs_nothing(name):
    calibration = calibration_of("llama")
    with pytest.raises(UsageError, match=f"Healing '{name}' fills gaps of whole blocks.*removes 2.attn"):
        heal(calibration, "0,2.attn", HEALINGS[name])
    assert not heal(calibration, "dense", HEALINGS[name])


def test_a_learning_rate_that_is_too_high_is_an_error():
    with pytest.raises(DivergedError, match="Healing 'swiglu' diverged at step"):
        heal(calibration_of("llama"), "1", replace(HEALINGS["swiglu"], lr=1e30))


@pytest.mark.parametrize(("name", "kind"), [("ffn", FFN), ("swiglu", SwiGLU)])
def test_the_width_is_an_option(name, kind):
    calibration = calibration_of("llama")
    default = heal(calibration, "1", make("healing", name, {"steps": "0"})).after[1, Action.GONE].module
    small = heal(calibration, "1", make("healing", name, {"steps": "0", "inner": "7"})).after[1, Action.GONE].module
    assert type(default) is type(small) is kind
    assert default.up.out_features == {"ffn": 128, "swiglu": 85}[name]
    assert small.up.out_features == 7
    assert (
        drawn(blank(kind, 7, calibration.replay), calibration.replay, seed=0, block=1).up.weight.abs().max()
        <= 1 / 32**0.5
    )


def test_options_are_checked():
    for option, value in {"steps": "-1", "lr": "0", "error": "huge", "inner": "-1"}.items():
        with pytest.raises(UsageError, match=f"Option '{option}'"):
            make("healing", "ffn", {option: value})
