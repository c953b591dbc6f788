"""What a healing says that it runs at most is what it runs, where nothing ends it early."""

from dataclasses import replace

import pytest
import torch
from calibrations import calibration_of

from searcher.contracts.plan import PrunePlan
from searcher.healing.calibration import Meter
from searcher.healing.heal import heal_plan, most_work
from searcher.healing.healer import make_healing

RECIPES = [
    "lora:steps=7,batch=3,rank=2,patience=0",
    "lora:steps=2,batch=3,rank=2,patience=0,loss=text",
    "full:steps=2,batch=3,patience=0,loss=hidden",
    "layer:steps=3,batch=2,patience=0,loss=kl",
    "lora:steps=7,batch=3,rank=2,patience=0,iterative=true,where=after",
    "layer:steps=5,batch=2,patience=0",
    "ffn:steps=5,batch=40,patience=0,inner=8",
    "swiglu:steps=3,batch=2,patience=0",
    "linear-folded",
    "linear-folded:ridge=0.1",
]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("plan", ["dense", "2", "1-2,4"])
def test_no_healing_runs_more_than_it_says(recipe, plan):
    calibration, removed = calibration_of("llama", num_blocks=6), PrunePlan.parse(plan)
    with torch.inference_mode():
        most = most_work(make_healing(recipe), replace(calibration, meter=Meter()), removed)
        ran = heal_plan(make_healing(recipe), calibration, removed).work
    assert ran.layer_forwards <= most.layer_forwards + 1e-9
    assert ran.heads <= most.heads + 1e-9
    if recipe.startswith("lora"):
        assert (ran.layer_forwards, ran.heads) == pytest.approx((most.layer_forwards, most.heads))
    else:
        assert ran.layer_forwards >= 0.4 * most.layer_forwards  # and it is no wild guess


@torch.inference_mode()
def test_a_plan_that_cannot_be_healed_so_costs_two_looks_at_its_loss():
    most = most_work(make_healing("layer:steps=2"), calibration_of("llama"), PrunePlan.parse("1.attn"))
    assert (most.layer_forwards, most.heads) == (2 * 5 * 3.6, 2 * 5)


@pytest.mark.parametrize("recipe", [one for one in RECIPES if "steps" in one])
@torch.inference_mode()
def test_a_shortened_healing_differs_in_its_steps_alone_and_runs_as_much_less(recipe):
    whole, calibration = make_healing(recipe), calibration_of("llama", num_blocks=6)
    half, least = whole.shortened(0.5), whole.shortened(1 / 64)
    assert half == replace(whole, steps=whole.steps // 2)
    assert least.steps == 1
    assert whole.shortened(1.0) == whole
    works = [most_work(one, calibration, PrunePlan.parse("1-2,4")).layer_forwards for one in (least, half, whole)]
    assert works == sorted(works)
    assert works[0] < works[2]


@pytest.mark.parametrize("recipe", ["linear-folded", "bias", "linear"])
def test_what_has_no_steps_cannot_be_shortened(recipe):
    assert make_healing(recipe).shortened(0.5) is None


def test_no_steps_stay_none():
    assert make_healing("layer:steps=0").shortened(0.5).steps == 0
