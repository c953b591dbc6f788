"""Linear maps at the ends of gaps: what they are, when there are none, and that nothing kept changes them."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from calibrations import (
    TOKENS,
    calibration_of,
    final_states,
    heal,
    left_as_it_was,
    padded,
    same_bits,
    states_after,
    windows,
)
from families import FAMILIES, tiny_model

from searcher.architecture.replacement_modules import LinearMap, LowRankMap
from searcher.contracts.plan import Action, Granularity, PrunePlan, all_units
from searcher.contracts.registry import make
from searcher.contracts.trie import path_of, plan_path
from searcher.errors import UsageError
from searcher.healing.calibration import PADDING, Meter
from searcher.healing.gaps import gap_ends, weighted_errors
from searcher.healing.linear import Linear
from searcher.healing.moments import RIDGES
from searcher.replay import batching
from searcher.replay.pruned_model import pruned
from searcher.replay.repair import Repair

HUGE = 1 << 40
PLANS = [
    PrunePlan.of(units)
    for size in (0, 1, 2, 3)
    for units in list(combinations(all_units(5, Granularity.SUBLAYER), size))[::9]
]


@pytest.fixture
def small_batches(monkeypatch):
    """So that tiny texts come in several batches."""
    monkeypatch.setattr(batching, "GROUP_TOKENS", {"cpu": 4 * TOKENS})


def fitted_on_all(family, **options):
    """A calibration that chooses by the windows it fits on, so that a map is always better than none."""
    calibration = calibration_of(family, **options)
    return replace(calibration, held_out=calibration.fit)


def error(calibration, plan, repair):
    """The mean weighted error of what leaves the last block."""
    wanted = final_states(calibration, "dense", Repair(), calibration.held_out)
    return float(weighted_errors(final_states(calibration, plan, repair, calibration.held_out), wanted).mean())


class Multiply(torch.nn.Module):
    """A block that is linear."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states @ self.matrix


@pytest.mark.parametrize("rank", [None, 3])
def test_a_linear_block_is_replaced_exactly(rank):
    model = tiny_model("llama")
    draw = torch.randn(2, 32, rank or 32, generator=torch.Generator().manual_seed(0)) / 6
    model.model.layers[2] = Multiply(torch.eye(32) + draw[0] @ draw[1].t())
    calibration = calibration_of("llama", model=model, granularity=Granularity.BLOCK)
    repair = heal(calibration, "2", Linear(ridge=1e-12, rank=rank))
    assert list(repair.after) == [(2, Action.GONE)]
    ours = final_states(calibration, "2", repair, calibration.held_out)
    torch.testing.assert_close(
        ours, final_states(calibration, "dense", Repair(), calibration.held_out), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "bloom"])
def test_two_gaps_are_what_least_squares_on_all_states_gives(family, small_batches):
    """By another way: states from the model's own forward, whole, pruned, and with the first map in place."""
    ridge, calibration = 1e-2, fitted_on_all(family, num_blocks=5)
    found = heal(calibration, "1-2,4", Linear(ridge=ridge)).after
    assert list(found) == [(2, Action.GONE), (4, Action.GONE)]
    replay, plan = calibration.replay, PrunePlan.parse("1-2,4")
    blocks = list(replay.architecture.blocks)
    dense = states_after(replay.model, blocks, calibration.fit)
    first = by_least_squares(dense[0], dense[2], ridge)
    torch.testing.assert_close(found[2, Action.GONE].module.weight, first, rtol=1e-3, atol=1e-4)
    sofar = Repair(after={(2, Action.GONE): found[2, Action.GONE]})
    with torch.inference_mode(), pruned(replay.model, replay.architecture, replay.outputs, plan, sofar) as model:
        (entering,) = states_after(model, [blocks[3]], calibration.fit)
    second = by_least_squares(entering, dense[4], ridge)
    torch.testing.assert_close(found[4, Action.GONE].module.weight, second, rtol=1e-3, atol=1e-4)


def by_least_squares(before, wanted, ridge):
    before, wanted = (states.flatten(0, 1).double().numpy() for states in (before, wanted))
    root = np.linalg.norm(wanted, axis=1, keepdims=True) ** 0.5
    before, wanted = before / root, wanted / root
    width = before.shape[1]
    penalty = np.sqrt(ridge * (before**2).sum() / width) * np.eye(width)
    stacked = np.vstack([before, penalty]), np.vstack([wanted, penalty])
    return torch.tensor(np.linalg.lstsq(*stacked, rcond=None)[0], dtype=torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_brings_states_nearer_in_every_family(family):
    calibration = fitted_on_all(family)
    plan = "1" if family in ("bloom", "opt") else "1,2.attn,3.ffn"
    repair = heal(calibration, plan, Linear(ridge=1e-3))
    assert len(repair.after) == 1
    assert error(calibration, "2-3", heal(calibration, "2-3", Linear())) < 0.9 * error(calibration, "2-3", Repair())


@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
def test_partly_removed_blocks_are_part_of_a_gap(family):
    calibration = fitted_on_all(family, num_blocks=5)
    after = heal(calibration, "0.ffn,2.attn,3,4.ffn", Linear()).after
    assert list(after) == [(0, Action.NO_FFN), (4, Action.NO_FFN)]


def test_where_gaps_end():
    ends = {text: list(gap_ends(path_of(PrunePlan.parse(text).actions(6)))) for text in ("0,2-3,4.attn", "5", "dense")}
    assert ends == {"0,2-3,4.attn": [1, 5], "5": [6], "dense": []}


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float32, {}), (torch.float32, {"rank": 4}), (torch.bfloat16, {"ridge": 1e-2})],
    ids=["float32", "rank", "bfloat16"],
)
def test_what_is_kept_changes_no_bit(dtype, options, small_batches):
    """With nothing kept, little, and everything; plans in the order of the trie and in another."""
    healing, calibration = Linear(**options), fitted_on_all("llama", dtype=dtype, num_blocks=5)
    state = calibration.fit.numel() * 2 * 32 * dtype.itemsize
    with torch.inference_mode():
        plans = sorted(PLANS, key=lambda plan: plan_path(plan, 5))
        alone = {plan: healing.gaps(calibration, 0).repair(plan) for plan in plans[::3]}
        assert sum(len(repair.after) for repair in alone.values()) > len(alone)
        for limit in (5 * state, HUGE):
            for order in (plans, plans[::-1]):
                fits = healing.gaps(calibration, limit)
                for plan in order:
                    repair = fits.repair(plan)
                    assert fits.bytes <= limit
                    assert plan not in alone or same_bits(repair, alone[plan])
        assert all(same_bits(healing.heal(calibration, plan), repair) for plan, repair in alone.items())


def test_a_correction_depends_on_what_comes_before_alone():
    calibration, plan = fitted_on_all("llama", num_blocks=5), PrunePlan.parse("0,2.attn,3")
    path = plan_path(plan, 5)
    with torch.inference_mode():
        fits = Linear().gaps(calibration, HUGE)
        repair = fits.repair(plan)
        again = Linear().gaps(calibration, HUGE)
        found = {(end - 1, Action(path[end - 1])): again.correction(path[:end]) for end in (4, 1)}
        assert same_bits(Repair(after=dict(sorted(found.items()))), repair)
        assert fits.correction(path[:4]) is repair.after[3, Action.GONE]


def test_plans_that_start_alike_share_the_work():
    plans = [PrunePlan.parse(text) for text in ("1,3", "1,3.attn", "1,4")]
    forwards = {}
    for limit in (0, HUGE):
        calibration = calibration_of("llama", num_blocks=5)
        with torch.inference_mode():
            fits = Linear().gaps(calibration, limit)
            for plan in plans:
                fits.repair(plan)
        forwards[limit] = calibration.meter.layer_forwards / 21
    # with nothing kept each gap runs the dense model and the plan up to its end
    assert forwards[0] == pytest.approx(3 * (2 + 1) + (4 + 2) + (4 + 2.6) + (5 + 3))
    assert forwards[HUGE] == pytest.approx(5 + 1 + 0.6 + 1)  # the dense model; block 2, part of 3, all of 3


@pytest.mark.parametrize("windows_seen", [1, 2])
def test_what_was_learnt_by_heart_is_not_kept(windows_seen):
    """Few tokens, which even a matrix can memorise; on held-out text no map may be worse than none."""
    calibration = calibration_of("llama")
    calibration = replace(calibration, fit=windows(windows_seen, seed=9)[0])
    assert not heal(calibration, "2-3", Linear(ridge=1e-9))
    chosen = heal(calibration, "2-3", Linear())
    assert error(calibration, "2-3", chosen) <= error(calibration, "2-3", Repair())


def test_the_penalty_with_the_least_held_out_error_is_chosen():
    """Of maps that are fitted to all windows but the one they are judged on, each fitted by least squares."""
    calibration = calibration_of("llama")
    ids, blocks = torch.cat([calibration.fit, calibration.held_out]), calibration.replay.architecture.blocks
    before, wanted = states_after(calibration.replay.model, [blocks[1], blocks[3]], ids)
    root = wanted.flatten(0, 1).norm(dim=1) ** -0.5
    size = float((before.flatten(0, 1) * root[:, None]).double().square().sum())
    alone = dict.fromkeys(RIDGES, 0.0)
    for ridge in RIDGES:
        for window in range(16, 21):
            others = [row for row in range(21) if row != window]
            left = float((before[others].flatten(0, 1) * root.view(21, -1)[others].view(-1, 1)).double().square().sum())
            fitted = by_least_squares(before[others], wanted[others], ridge * size / left)
            alone[ridge] += float(weighted_errors(before[window] @ fitted, wanted[window]).sum())
    best = min(alone, key=alone.__getitem__)
    assert len(set(alone.values())) == len(RIDGES)
    found, fixed = (heal(calibration, "2-3", Linear(ridge=ridge)) for ridge in (None, best))
    assert same_bits(found, fixed)
    (one,) = found.after.values()
    torch.testing.assert_close(one.module.weight, by_least_squares(before, wanted, best), rtol=1e-3, atol=1e-4)


def test_numbers_that_are_none_are_not_corrected():
    calibration = fitted_on_all("llama")
    calibration.replay.architecture.blocks[1].mlp.down_proj.weight[0, 0] = torch.nan
    assert list(heal(calibration, "0,2", Linear()).after) == [(0, Action.GONE)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_map_is_a_module_of_the_models_dtype(dtype):
    calibration = fitted_on_all("llama", dtype=dtype)
    kinds = {}
    for rank in (None, 3, 32):
        (replacement,) = heal(calibration, "1", Linear(rank=rank)).after.values()
        kinds[rank] = type(replacement.module)
        for parameter in replacement.module.parameters():
            assert parameter.dtype is dtype
            assert not parameter.requires_grad
            assert not parameter.is_inference()
        if rank == 3:
            assert replacement.module.down.shape == (32, 3)
    assert kinds == {None: LinearMap, 3: LowRankMap, 32: LinearMap}


def test_padding_changes_nothing():
    calibration = fitted_on_all("llama")
    longer = replace(calibration, **{name: padded(getattr(calibration, name), PADDING) for name in ("fit", "held_out")})
    wrong = replace(calibration, fit=padded(calibration.fit, 5))
    one, same, other = (
        heal(p, "1-2", Linear(ridge=0.1)).after[2, Action.GONE].module.weight for p in (calibration, longer, wrong)
    )
    torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-4)
    assert (one - other).abs().max() > 1e-2


def test_the_dense_model_needs_nothing():
    calibration = calibration_of("llama")
    assert not heal(calibration, "dense", Linear())
    assert calibration.meter == Meter()


@pytest.mark.parametrize("raised", [None, KeyboardInterrupt])
def test_the_model_is_left_exactly_as_it_was(raised):
    calls = []

    def go_on():
        calls.append(1)
        if raised and len(calls) == 9:
            raise raised

    calibration = calibration_of("gemma2", go_on=go_on)
    with left_as_it_was(calibration):
        if raised:
            with pytest.raises(raised):
                heal(calibration, "0,2.attn", Linear())
        else:
            heal(calibration, "0,2.attn", Linear())


def test_a_fit_that_was_interrupted_can_be_asked_for_again(small_batches):
    calls, stop = [], [True]

    def go_on():
        calls.append(1)
        if stop[0] and len(calls) == 11:
            raise KeyboardInterrupt

    calibration, plan = replace(fitted_on_all("llama"), go_on=go_on), PrunePlan.parse("1,3")
    with torch.inference_mode():
        fits = Linear().gaps(calibration, HUGE)
        with pytest.raises(KeyboardInterrupt):
            fits.repair(plan)
        stop[0] = False
        assert same_bits(fits.repair(plan), Linear().heal(calibration, plan))


def test_options_are_checked():
    for option, value in {"ridge": "0", "rank": "0"}.items():
        with pytest.raises(UsageError, match=f"Option '{option}'"):
            make("healing", "linear", {option: value})
