"""Maps folded into the FFN before a gap: what they are, and which models they do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibrations import calibration_of, final_states, heal, left_as_it_was, padded, same_bits, states_after, windows
from families import FAMILIES, tiny_model

from searcher.contracts.plan import PrunePlan
from searcher.contracts.registry import make
from searcher.errors import UsageError
from searcher.healing.calibration import PADDING, Meter
from searcher.healing.folded import LinearFolded
from searcher.healing.gaps import weighted_errors
from searcher.healing.projection import find_projection
from searcher.replay.pruned_model import pruned
from searcher.replay.repair import Repair

REFUSED = {
    "norm": ("gemma2", "gemma3_text", "olmo2", "olmo3", "exaone4", "granite"),
    "not the output of one layer": ("bloom", "mixtral", "qwen2_moe", "qwen3_moe", "phimoe", "gpt_oss"),
    "FFN module of its own": ("opt",),
}
REASONS = {family: reason for reason, families in REFUSED.items() for family in families}
FITTING = [family for family in FAMILIES if family not in (*REASONS, "deepseek_v3")]  # whose later blocks have experts


def fitted_on_all(family, **options):
    """A calibration that chooses by the windows it fits on, so that a map is always better than none."""
    calibration = calibration_of(family, **options)
    return replace(calibration, held_out=calibration.fit)


def error(calibration, plan, repair):
    """The mean weighted error of what leaves the last block."""
    wanted = final_states(calibration, "dense", Repair(), calibration.held_out)
    return float(weighted_errors(final_states(calibration, plan, repair, calibration.held_out), wanted).mean())


def around_ffn(calibration, block, ids, plan="dense", repair=None):
    """What the FFN of a block adds, and the states after the block, in the model's own forward."""
    replay = calibration.replay
    modules = [replay.architecture.ffn[block], replay.architecture.blocks[block]]
    with pruned(replay.model, replay.architecture, replay.outputs, PrunePlan.parse(plan), repair) as model:
        return [states.flatten(0, 1).double() for states in states_after(model, modules, ids)]


def by_least_squares(added, missing, wanted, ridge):
    root = wanted.norm(dim=1, keepdim=True).sqrt()
    added, missing = added / root, missing / root
    width = added.shape[1]
    penalty = np.sqrt(ridge * float(added.square().sum()) / width) * np.eye(width)
    stacked = np.vstack([added.numpy(), penalty]), np.vstack([missing.numpy(), 0 * penalty])
    return torch.tensor(np.linalg.lstsq(*stacked, rcond=None)[0])


@pytest.mark.parametrize("family", FITTING)
def test_the_folded_weights_do_what_the_map_does_to_hidden_states(family):
    """Two gaps, by another way: least squares on the states of the model's own forward, then that map on them."""
    ridge, plan = 1e-2, "1-2,4"
    calibration = fitted_on_all(family, num_blocks=5)
    weights = heal(calibration, plan, LinearFolded(ridge=ridge)).weights
    assert len(weights) in (2, 4)  # with biases where the model has them
    assert not heal(calibration, plan, LinearFolded(ridge=ridge)).after
    ids = calibration.fit
    dense = [s.flatten(0, 1).double() for s in states_after(calibration.replay.model, blocks_of(calibration), ids)]
    for number, (block, last) in enumerate([(0, 2), (3, 4)]):
        half = len(weights) // 2
        done, now = (Repair(weights=dict(list(weights.items())[:end])) for end in (number * half, (number + 1) * half))
        added, leaving = around_ffn(calibration, block, ids, plan, done)
        change = by_least_squares(added, dense[last] - leaving, dense[last], ridge)
        mapped, left = around_ffn(calibration, block, ids, plan, now)
        scale = float(leaving.abs().max())
        torch.testing.assert_close(mapped, added + added @ change, rtol=1e-3, atol=1e-4 * scale)
        torch.testing.assert_close(left, leaving + added @ change, rtol=1e-3, atol=1e-4 * scale)


def blocks_of(calibration):
    return list(calibration.replay.architecture.blocks)


@pytest.mark.parametrize("family", FITTING)
def test_it_brings_states_nearer(family):
    calibration = fitted_on_all(family)
    assert error(calibration, "2-3", heal(calibration, "2-3", LinearFolded())) < 0.95 * error(
        calibration, "2-3", Repair()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_weights_are_in_the_models_dtype_and_the_same_bits_each_time(family, dtype):
    calibration = fitted_on_all(family, dtype=dtype)
    repair = heal(calibration, "1,3", LinearFolded(ridge=1e-2))
    own = dict(calibration.replay.model.named_parameters())
    for name, weight in repair.weights.items():
        assert weight.dtype is dtype
        assert weight.shape == own[name].shape
        assert not weight.is_inference()
    assert repair
    assert same_bits(repair, heal(calibration, "1,3", LinearFolded(ridge=1e-2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", REASONS)
def test_models_whose_ffn_is_not_simply_added_are_refused_with_the_reason(family, dtype):
    with pytest.raises(UsageError, match=f"cannot heal plan 1: before the gap at block 1, .*{REASONS[family]}"):
        heal(calibration_of(family, dtype=dtype), "1", LinearFolded())


@pytest.mark.parametrize(
    ("plan", "reason"),
    [("0", "no FFN precedes the gap at block 0"), ("0-1,3", "no FFN precedes"), ("1,2.ffn", "it removes 2.ffn")],
)
def test_plans_with_nothing_to_fold_into_are_refused(plan, reason):
    with pytest.raises(UsageError, match=f"'linear-folded' cannot heal plan {plan}: {reason}.*Use linear"):
        heal(calibration_of("llama"), plan, LinearFolded())


@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_moe", "deepseek_v3"])
def test_blocks_of_a_mixed_model_are_looked_at_one_by_one(family):
    calibration = fitted_on_all(family)
    plain = {"deepseek_v3": 0}.get(family, 1)
    assert heal(calibration, f"{plain + 1}", LinearFolded(ridge=1e-2)).weights
    with pytest.raises(UsageError, match="not the output of one layer"):
        heal(calibration, "3", LinearFolded())


@pytest.mark.parametrize(("family", "name"), [("llama", "mlp.down_proj"), ("gpt2", "mlp.c_proj"), ("phi", "mlp.fc2")])
def test_the_projection_is_found_by_what_it_returns(family, name):
    replay = calibration_of(family).replay
    with torch.inference_mode():
        assert find_projection(replay, 1, replay.embed(windows(1)[0])).name == name


def test_few_tokens_learnt_by_heart_change_nothing():
    calibration = calibration_of("llama")
    calibration = replace(calibration, fit=windows(1, seed=9)[0])
    assert not heal(calibration, "2-3", LinearFolded(ridge=1e-9))
    chosen = heal(calibration, "2-3", LinearFolded())
    assert error(calibration, "2-3", chosen) <= error(calibration, "2-3", Repair())


def test_numbers_that_are_none_change_nothing():
    calibration = fitted_on_all("llama")
    calibration.replay.architecture.blocks[1].mlp.down_proj.weight[0, 0] = torch.nan
    assert not heal(calibration, "3", LinearFolded())


def test_padding_changes_nothing():
    calibration = fitted_on_all("llama")
    longer = replace(calibration, **{name: padded(getattr(calibration, name), PADDING) for name in ("fit", "held_out")})
    wrong = replace(calibration, fit=padded(calibration.fit, 5))
    one, same, other = (
        heal(p, "1-2", LinearFolded(ridge=0.1)).weights["model.layers.0.mlp.down_proj.weight"]
        for p in (calibration, longer, wrong)
    )
    torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-4)
    assert (one - other).abs().max() > 1e-2


def test_the_dense_model_needs_nothing():
    assert not heal(calibration_of("gemma2"), "dense", LinearFolded())


@pytest.mark.parametrize("raised", [None, KeyboardInterrupt])
@pytest.mark.parametrize("at", [2, 7])
def test_the_model_is_left_exactly_as_it_was(raised, at):
    calls = []

    def go_on():
        calls.append(1)
        if raised and len(calls) == at:
            raise raised

    calibration = calibration_of("gpt2", go_on=go_on)
    with left_as_it_was(calibration):
        if raised:
            with pytest.raises(raised):
                heal(calibration, "1,3", LinearFolded())
        else:
            heal(calibration, "1,3", LinearFolded())


def test_work_is_counted():
    calibration = fitted_on_all("llama")
    calibration = replace(calibration, held_out=calibration.fit[:5], meter=Meter())
    heal(calibration, "1-2", LinearFolded(ridge=1e-2))
    probe, dense, fit, choose, again = 2 + 0.4, 3 * 21, 16, 2 * 5, 21
    assert calibration.meter.layer_forwards == pytest.approx(probe + dense + fit + choose + again)


def test_options_are_checked():
    with pytest.raises(UsageError, match="Option 'ridge'"):
        make("healing", "linear-folded", {"ridge": "-1"})


def test_a_model_with_a_factor_after_the_ffn_is_refused_even_if_it_is_close_to_one():
    model = tiny_model("granite")
    for block in model.model.layers:
        block.residual_multiplier = 0.9
    with pytest.raises(UsageError, match="does not simply add"):
        heal(calibration_of("granite", model=model.to(torch.bfloat16)), "1", LinearFolded())
