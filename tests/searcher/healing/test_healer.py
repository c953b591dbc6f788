"""Plans are measured as healing leaves them, and nothing of it stays behind."""

from itertools import combinations
from pathlib import Path

import healings
import numpy as np
import pytest
import torch
from families import VOCABULARY, tiny_model

from objectives.loss import Loss
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.evaluation.open_executor import open_executor
from searcher.healing.heal import heal_plan
from searcher.healing.healer import begin_treatment, make_calibration, make_healing
from searcher.loading.heal_text import HealText, cut_heal_text
from searcher.replay.pruned_model import pruned
from searcher.replay.relative_flops import measure_prices
from searcher.replay.repair import Repair
from searcher.replay.replay import repaired
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements
from searcher.testing import tiny_tokenizer

HERE = Path(healings.__file__)
TOKENS = 24


def tokens(rows, seed):
    return torch.randint(VOCABULARY, (rows, TOKENS), generator=torch.Generator().manual_seed(seed))


WINDOWS = tokens(6, 1)
UNITS = all_units(5, Granularity.SUBLAYER)
PLANS = [PrunePlan.of(units) for size in (0, 1, 2) for units in combinations(UNITS[::2] + UNITS[3::4], size)]
LORA = "lora:steps=6,lr=0.01,batch=2,rank=2"


class Opened:
    """An executor of a tiny model with a healing."""

    def __init__(self, recipe, cores=1, family="llama", memory=None, held_out=None):
        self.text = HealText(recipe, tokens(8, 2), tokens(4, 3) if held_out is None else held_out)
        self.model = tiny_model(family, num_blocks=5)
        windows = {"search": WINDOWS, "healed-search": WINDOWS}
        with torch.inference_mode():
            self.replay = open_replay(self.model, Granularity.SUBLAYER)
            self.prices = measure_prices(self.replay, TOKENS)
            self.treatment = begin_treatment(self.text, self.replay, self.prices, Granularity.SUBLAYER)
            self.executor = open_executor(
                self.replay, {"loss": Loss()}, windows, tiny_tokenizer(), self.prices, memory, cores, self.text
            )

    def measure(self, split, plans):
        known = Measurements(self.executor.layout)
        self.lines = list(self.executor.measure(split, plans, known))
        for line in self.lines:
            known.add(line)
        return {plan: known.rows(split, plan, "loss").tolist() for plan in plans}

    def healed(self, plan):
        """Losses by another way: healed alone, and run through the model's own forward."""
        healing = make_healing(self.text.spec)
        replay = self.replay
        with torch.inference_mode():
            with repaired(replay, Repair()):  # fits are of the plain model
                repair = healing.heal(make_calibration(self.text, replay, self.prices), plan)
            with pruned(self.model, replay.architecture, replay.outputs, plan, repair) as model:
                logits = model(input_ids=WINDOWS, use_cache=False).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), WINDOWS[:, 1:], reduction="none")
        return losses.mean(1).tolist()


@pytest.mark.parametrize("kind", ["Shifted", "Turned"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_every_score_is_of_the_healed_plan(kind, family):
    """In the trie, with states kept from before, and on any number of cores: as if each plan were healed alone."""
    opened = Opened(f"{HERE}:{kind}", cores=2, family=family)
    first = opened.measure("search", PLANS[: len(PLANS) // 2])
    values = first | opened.measure("search", PLANS[len(PLANS) // 2 :])
    plain = Opened(f"{HERE}:Failing", family=family).measure("search", PLANS)
    assert values[PrunePlan()] == plain[PrunePlan()]
    assert sum(values[plan] != plain[plan] for plan in PLANS) > 0.6 * len(PLANS)
    for plan in PLANS[::7]:
        assert values[plan] == pytest.approx(opened.healed(plan), abs=2e-5)
    alone = Opened(f"{HERE}:{kind}", cores=1, family=family)
    for plan in PLANS[::5]:
        assert alone.measure("search", [plan])[plan] == values[plan]  # bit for bit


def test_what_gaps_take_is_counted():
    opened = Opened(f"{HERE}:Turned")
    opened.measure("search", [PrunePlan.parse("1"), PrunePlan.parse("1,3")])
    plain = Opened(f"{HERE}:Failing")
    plain.measure("search", [PrunePlan.parse("1"), PrunePlan.parse("1,3")])
    more = sum(line.layer_forwards for line in opened.lines) - sum(line.layer_forwards for line in plain.lines)
    assert more > 0


def test_healing_a_plan_leaves_nothing_to_the_next():
    opened = Opened(LORA, cores=2)
    plans = [PrunePlan.parse(text) for text in ("1", "2,3", "0", "4", "dense")]
    before = opened.measure("search", plans)
    weights = {name: tensor.clone() for name, tensor in opened.model.state_dict().items()}
    modules = list(opened.model.named_modules())
    healed = opened.measure("healed-search", plans)
    assert opened.measure("search", plans) == before  # bit for bit
    assert list(opened.model.named_modules()) == modules
    assert all(torch.equal(weights[name], tensor) for name, tensor in opened.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())
    assert any(np.mean(healed[plan]) != pytest.approx(np.mean(before[plan]), abs=1e-4) for plan in plans)
    alone = Opened(LORA)
    for plan in reversed(plans):  # in another order, on another number of cores
        assert alone.measure("healed-search", [plan])[plan] == healed[plan]


def test_healed_values_are_those_of_the_healed_model():
    opened = Opened(LORA)
    plan = PrunePlan.parse("1,3.ffn")
    values = opened.measure("healed-search", [plan])[plan]
    with torch.inference_mode():
        calibration = make_calibration(opened.text, opened.replay, opened.prices)
        healed = heal_plan(make_healing(LORA), calibration, plan)
    assert not healed.dropped
    assert healed.after < healed.before
    assert values == pytest.approx(opened.healed(plan), abs=2e-5)
    (line,) = opened.lines
    work = calibration.meter.layer_forwards + healed.work.layer_forwards
    weight = sum(opened.prices.weight[action] for action in plan.actions(5))
    assert line.layer_forwards == pytest.approx(work + weight * len(WINDOWS))


def test_a_fit_that_runs_away_breaks_the_plan_and_no_other():
    opened = Opened(f"{HERE}:Failing")
    plans = [PrunePlan.parse("1"), PrunePlan.parse("2")]
    values = opened.measure("healed-search", plans)
    assert np.isnan(values[plans[0]]).all()
    assert values[plans[1]] == opened.measure("search", plans)[plans[1]]  # it stays as it is


@pytest.mark.parametrize("strength", [1.0, 4.0, 16.0])
def test_memorising_the_heal_text_improves_no_score(strength):
    """What helps on the text it was fitted on, and not on what was held out, is dropped."""
    recipe = f"{HERE}:Memory:strength={strength}"
    fitted, plan = tokens(8, 2), PrunePlan.parse("2")
    fitted[:] = fitted[0, 0]  # one token only
    opened = Opened(recipe)
    object.__setattr__(opened.text, "fit", fitted)
    with torch.inference_mode():
        calibration = make_calibration(opened.text, opened.replay, opened.prices)
        repair = make_healing(recipe).heal(calibration, plan)
        memorised = type(calibration)(opened.replay, fitted, fitted, opened.prices)
        assert memorised.loss(plan, repair) < memorised.loss(plan, Repair())
        assert heal_plan(make_healing(recipe), calibration, plan).dropped
    assert opened.measure("healed-search", [plan]) == opened.measure("search", [plan])


def test_lora_that_memorises_is_stopped_early():
    recipe = "lora:steps=60,lr=0.05,batch=4,rank=8"
    opened = Opened(recipe)
    plan = PrunePlan.parse("2")
    with torch.inference_mode():
        calibration = make_calibration(HealText(recipe, tokens(4, 5), tokens(16, 6)), opened.replay, opened.prices)
        healed = heal_plan(make_healing(recipe), calibration, plan)
    assert healed.after <= healed.before  # random tokens: nothing can be learnt that holds elsewhere
    assert healed.before - healed.after < 0.2


def test_held_out_windows_begin_with_a_document():
    texts = [" ".join(f"w{(7 * i + j) % 89}" for j in range(200)) for i in range(20)]
    text = cut_heal_text(texts, tiny_tokenizer(), tokens=16, count=60, fewer=True, spec="bias")
    assert text.rows == 60
    assert len(text.held_out) == pytest.approx(12, abs=6)
    few = cut_heal_text(texts[:2], tiny_tokenizer(), tokens=16, count=10_000, fewer=True, spec="bias")
    assert 2 <= few.rows < 10_000
    assert len(few.fit) >= 1
    assert len(few.held_out) >= 1
