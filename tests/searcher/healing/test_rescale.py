"""Factors at the ends of gaps: what they are, that folded weights do the same, and which models have no place for them."""

import contextlib
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from calibrations import (
    PRICES,
    calibration_of,
    final_states,
    heal,
    left_as_it_was,
    padded,
    same_bits,
    states_after,
    windows,
)
from families import BLOCKS_ONLY, FAMILIES, tiny_model

from objectives.loss import Loss
from searcher.architecture.replacement_modules import Scale
from searcher.contracts.plan import Action, Granularity, PrunePlan
from searcher.contracts.registry import make
from searcher.errors import UsageError
from searcher.evaluation.open_executor import open_executor
from searcher.healing.calibration import PADDING, Meter
from searcher.healing.healer import begin_treatment
from searcher.healing.linear import Linear
from searcher.healing.rescale import Rescale
from searcher.loading.heal_text import HealText
from searcher.replay.repair import Repair
from searcher.runs.measurement import Measurements
from searcher.testing import tiny_tokenizer

REFUSED = {
    "one layer": ("mixtral", "qwen2_moe", "qwen3_moe", "phimoe", "gpt_oss", "deepseek_v3", "olmo2", "olmo3", "exaone4"),
    "indifferent": ("bloom", "opt"),
}
REASONS = {family: reason for reason, families in REFUSED.items() for family in families}
FITTING = [family for family in FAMILIES if family not in REASONS]
MODULES = Rescale(fold=False)


def factors_of(repair):
    return [float(one.module.factor) for one in repair.after.values()]


class Multiply(torch.nn.Module):
    """A block that makes hidden states larger, and nothing else."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states * self.factor


@pytest.mark.parametrize("choose", ["norm", "ratio"])
@pytest.mark.parametrize("first", [True, False])
def test_a_block_that_multiplies_is_made_good_exactly(choose, first):
    model = tiny_model("llama", num_blocks=5)
    for block, factor in ((1, 2.0), (3, 0.75)):
        model.model.layers[block] = Multiply(factor)
    calibration = calibration_of("llama", model=model, granularity=Granularity.BLOCK)
    repair = heal(calibration, "1,3", Rescale(choose=choose, first=first, fold=False))
    assert list(repair.after) == [(1, Action.GONE), (3, Action.GONE)]
    assert factors_of(repair) == [2.0, 0.75]
    dense = final_states(calibration, "dense", Repair(), calibration.held_out)
    torch.testing.assert_close(final_states(calibration, "1,3", repair, calibration.held_out), dense)


def test_a_search_finds_a_planted_factor():
    """With sharp answers of the dense model for text, whose loss is least where it is itself again."""
    model = tiny_model("llama")
    model.model.layers[1] = Multiply(1.5)
    model.lm_head.weight *= 8
    calibration = calibration_of("llama", model=model, granularity=Granularity.BLOCK)
    ids = windows(8)[0]
    for place in range(1, ids.shape[1]):
        ids[:, place] = model(input_ids=ids[:, :place], use_cache=False).logits[:, -1].argmax(-1)
    (factor,) = factors_of(heal(replace(calibration, held_out=ids), "1", Rescale(choose="search", fold=False)))
    assert factor == pytest.approx(1.5, rel=0.1)


@pytest.mark.parametrize(("choose", "first"), [("norm", False), ("ratio", True)])
def test_two_gaps_are_measured_one_after_another(choose, first):
    """By another way: states of the model's own forward, and of blocks run one by one by hand."""
    calibration = calibration_of("llama", num_blocks=6)
    model, ids = calibration.replay.model, calibration.fit[:1]
    dense = states_after(model, list(model.model.layers), ids)
    with torch.inference_mode():
        calibration.replay.embed(ids)
        run = calibration.replay.run_block_without
        ours = [size_of(dense[2], first) / size_of(dense[0], first)]
        expected = [
            float((ours[0]).mean()) if choose == "ratio" else norm_of(dense[2], first) / norm_of(dense[0], first)
        ]
        hidden = run(dense[0] * expected[0], 3, [])
        more = size_of(dense[4], first) / size_of(hidden, first)
        expected += [float(more.mean()) if choose == "ratio" else norm_of(dense[4], first) / norm_of(hidden, first)]
    found = factors_of(heal(calibration, "1-2,4", Rescale(choose=choose, first=first, fold=False)))
    assert found == pytest.approx(expected, rel=1e-5)


def size_of(states, first):
    return states[:, 0 if first else 1 :].abs().mean(dim=(0, 1))


def norm_of(states, first):
    return float(states[:, 0 if first else 1 :].norm(dim=-1).mean())


@pytest.mark.parametrize("family", FITTING)
@pytest.mark.parametrize("plan", ["1,3", "0.attn,1.ffn,2,4.attn"])
def test_folded_weights_do_what_modules_do(family, plan):
    """But for the factor of all states together."""
    calibration = calibration_of(family, num_blocks=6)
    modules, folded = heal(calibration, plan, MODULES), heal(calibration, plan, Rescale())
    assert folded.weights
    assert not folded.after
    ours = final_states(calibration, plan, folded, calibration.held_out) * math.prod(factors_of(modules))
    wanted = final_states(calibration, plan, modules, calibration.held_out)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert not torch.allclose(wanted, final_states(calibration, plan, Repair(), calibration.held_out), rtol=0.05)
    losses = [replace(calibration, meter=Meter()).loss(PrunePlan.parse(plan), repair) for repair in (modules, folded)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_tied_embeddings_stay_as_they_are():
    model = tiny_model("qwen2")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    calibration = calibration_of("qwen2", model=model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    modules, folded = heal(calibration, "1", MODULES), heal(calibration, "1", Rescale())
    assert all(name.endswith(("o_proj.weight", "down_proj.weight")) for name in folded.weights)
    plan = PrunePlan.parse("1")
    assert calibration.loss(plan, folded) == pytest.approx(calibration.loss(plan, modules), abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_weights_are_in_the_models_dtype_and_the_same_bits_each_time(family):
    calibration = calibration_of(family, dtype=torch.bfloat16)
    repair = heal(calibration, "1", Rescale())
    own = dict(calibration.replay.model.named_parameters())
    assert len(repair.weights) == {"llama": 4, "gemma3_text": 4, "gpt2": 8}[family]
    for name, weight in repair.weights.items():
        assert weight.dtype is torch.bfloat16
        assert weight.shape == own[name].shape
        assert not weight.is_inference()
    assert same_bits(repair, heal(calibration, "1", Rescale()))


@pytest.mark.parametrize("family", REASONS)
def test_models_with_no_place_for_a_factor_are_refused_with_the_reason(family):
    calibration = calibration_of(family)
    plan = "1"
    with pytest.raises(UsageError, match=f"'rescale' cannot heal plan {plan}: .*{REASONS[family]}.*fold=false"):
        heal(calibration, plan, Rescale())
    with torch.inference_mode(), pytest.raises(UsageError, match=f"any plan of this model: .*{REASONS[family]}"):
        Rescale().check(calibration)
    Rescale(fold=False).check(calibration)
    assert heal(calibration, plan, MODULES).after


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi"])
def test_other_models_are_not(family):
    with torch.inference_mode():
        Rescale().check(calibration_of(family))


def test_a_head_that_sees_the_size_is_refused():
    model = tiny_model("llama")
    model.model.norm = torch.nn.Identity()
    with pytest.raises(UsageError, match="what follows the last block is not indifferent"):
        heal(calibration_of("llama", model=model), "1", Rescale())


def test_weights_that_give_another_loss_are_refused():
    """Norms whose small number is no small one for the states of this text, though it is for those that are tried."""
    model = tiny_model("llama")
    model.model.embed_tokens.weight *= 0.1
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 0.01
        if isinstance(module, torch.nn.Linear):
            module.weight *= 0.1
    model.lm_head.weight *= 300
    with pytest.raises(UsageError, match=r"plan 1: folded into weights its loss is .*, by modules"):
        heal(calibration_of("llama", model=model), "1", Rescale())


def test_after_the_last_block_there_is_nothing_to_make_good():
    calibration = calibration_of("llama")
    assert not heal(calibration, "3", Rescale())
    assert list(heal(calibration, "0,2-3", MODULES).after) == [(0, Action.GONE)]
    assert not heal(calibration, "dense", Rescale())


@pytest.mark.parametrize("weight", [math.nan, math.inf, 0.0])
def test_factors_that_are_no_sound_numbers_are_left_out(weight):
    model = tiny_model("llama")
    model.model.layers[1] = Multiply(1.0)
    calibration = calibration_of("llama", model=model, granularity=Granularity.BLOCK)
    model.model.layers[1].factor = weight
    assert not heal(calibration, "1", Rescale())


def test_padding_and_windows_that_are_not_asked_for_change_nothing():
    calibration = calibration_of("llama")
    longer = replace(calibration, fit=padded(calibration.fit, PADDING))
    fewer = replace(calibration, fit=calibration.fit[:1])
    healing = Rescale(tokens=28, fold=False)
    found = [factors_of(heal(one, "1", healing))[0] for one in (calibration, longer, fewer)]
    assert all(one == pytest.approx(other, rel=1e-6) for one, other in pairwise(found))
    others = [
        factors_of(heal(calibration, "1", Rescale(fold=False, **more)))[0] for more in ({"windows": 5}, {"tokens": 9})
    ]
    assert len({found[0], *others}) == 3


def test_plans_that_start_alike_share_the_work():
    calibration = calibration_of("llama", num_blocks=6)
    with torch.inference_mode():
        fits = MODULES.gaps(calibration, 1 << 30)
        for plan in ("1,3", "1,4"):
            fits.repair(PrunePlan.parse(plan))
    assert calibration.meter.layer_forwards == pytest.approx(5 + 1 + 1)  # the dense model, block 2, block 3
    calibration = calibration_of("llama", num_blocks=6)
    heal(calibration, "1", Rescale(windows=2, tokens=6, fold=False))
    assert calibration.meter.layer_forwards == pytest.approx(2 * 2 * 6 / 24)  # the dense model, up to block 1


def test_every_plan_is_charged_what_its_numbers_are_taken_from():
    calibration = calibration_of("llama")
    assert Rescale(windows=2, tokens=6).rows(calibration) == 2 * 6 / 24
    assert Rescale(windows=99, tokens=99).rows(calibration) == 16
    assert Rescale(choose="search").rows(calibration) > 5
    assert Linear().rows(calibration) == 21


def test_in_a_search_values_are_those_of_the_plan_healed_alone():
    """By modules to the last digits, and by weights but for rounding."""
    calibration, ids = calibration_of("llama"), windows(6, seed=8)[0]
    plans = [PrunePlan.parse(text) for text in ("0", "0,2", "1.attn,2", "2.ffn")]
    text = HealText("rescale", calibration.fit, calibration.held_out)
    with torch.inference_mode():
        begin_treatment(text, calibration.replay, PRICES, Granularity.SUBLAYER)
        executor = open_executor(
            calibration.replay, {"loss": Loss()}, {"search": ids}, tiny_tokenizer(), PRICES, cores=1, healing=text
        )
        known = Measurements(executor.layout)
        with contextlib.closing(executor):
            for line in executor.measure("search", plans, known):
                known.add(line)
    for plan in plans:
        found = known.rows("search", plan, "loss").mean()
        alone = [
            replace(calibration, held_out=ids, documents=()).loss(plan, heal(calibration, str(plan), healing))
            for healing in (MODULES, Rescale())
        ]
        assert found == pytest.approx(alone[0], rel=1e-6)
        assert found == pytest.approx(alone[1], rel=1e-5)
        assert found != pytest.approx(replace(calibration, held_out=ids).loss(plan, Repair()), rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", *BLOCKS_ONLY])
def test_the_model_is_left_exactly_as_it_was(family):
    calibration = calibration_of(family)
    with left_as_it_was(calibration):
        if family in BLOCKS_ONLY:
            with pytest.raises(UsageError):
                heal(calibration, "1", Rescale())
        else:
            heal(calibration, "1", Rescale())


def test_the_module_multiplies():
    module = Scale()
    module.factor.data.fill_(1.5)
    torch.testing.assert_close(module(torch.ones(2, 3)), torch.full((2, 3), 1.5))


def test_options_are_checked():
    for option, value in {"choose": "best", "windows": "0"}.items():
        with pytest.raises(UsageError, match=f"Option '{option}'"):
            make("healing", "rescale", {option: value})
