"""The training loop: what it does with a small regression whose answer is known."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from searcher.errors import UsageError
from searcher.healing.contract import DivergedError
from searcher.healing.training import CHECKING, CHECKS, Task, TrainingOptions, shuffled, steps_between_checks, train

RECIPE = TrainingOptions("test", steps=40, batch=3, lr=0.1, min_lr=0.01, weight_decay=0.0, patience=0, seed=0)


class Regression:
    """Fits a vector to rows that scatter around another one."""

    def __init__(self, fit=20, noise=0.1):
        rows = torch.randn(fit + 10, 4, generator=torch.Generator().manual_seed(0)) * noise + 1
        self.fit, self.held_out = rows[:fit], rows[fit:]
        self.weight = torch.nn.Parameter(torch.zeros(4))
        self.checks, self.asked, self.seen = [], 0, []

    def calibration(self):
        def go_on():
            self.asked += 1

        return SimpleNamespace(held_out=(), fit=self.fit, watch=self.checks.append, go_on=go_on, unfinished=None)

    def backward(self, rows):
        self.seen += rows.tolist()
        loss = (self.fit[rows] - self.weight).square().mean()
        loss.backward()
        return loss.item()

    def held_out_loss(self):
        return float((self.held_out - self.weight.detach()).square().mean())

    def train(self, recipe=RECIPE, first=0, steps=None, **changes):
        task = Task([self.weight], self.backward, self.held_out_loss, first, steps or recipe.steps)
        return train(self.calibration(), replace(task, **changes), recipe)


def test_it_learns_and_is_checked_as_it_goes():
    fit = Regression()
    best = fit.train()
    assert best < 0.1 < fit.checks[0].held_out
    assert best == fit.held_out_loss() == min(check.held_out for check in fit.checks)
    assert [check.step for check in fit.checks] == [4 * i for i in range(CHECKS + 1)]
    assert math.isnan(fit.checks[0].fitted)
    assert all(check.steps == 40 and check.fitted > 0 for check in fit.checks[1:])
    assert fit.asked == 40


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_order():
    first, second, third = Regression(), Regression(), Regression()
    first.train(), second.train(), third.train(replace(RECIPE, seed=1))
    assert torch.equal(first.weight, second.weight)
    assert first.seen == second.seen != third.seen


def test_no_global_random_state_is_used():
    before = torch.get_rng_state()
    Regression().train()
    assert torch.equal(torch.get_rng_state(), before)


@given(count=st.integers(1, 12), batch=st.integers(1, 15), seed=st.integers(0, 3))
def test_every_window_comes_before_any_comes_again(count, batch, seed):
    batches = list(itertools.islice(shuffled(count, batch, seed), 12))
    assert all(len(rows) == min(batch, count) for rows in batches)
    order = torch.cat(batches).tolist()
    for start in range(0, len(order) - count + 1, count):
        assert sorted(order[start : start + count]) == list(range(count))


def test_the_learning_rate_rises_and_falls_to_its_minimum():
    rates = [RECIPE.lr_at(step) for step in range(RECIPE.steps + 1)]
    assert rates[0] == RECIPE.lr / 2
    assert max(rates) == rates[1] == rates[2] == RECIPE.lr
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(RECIPE.min_lr)


def test_gradients_are_cut_down():
    steps = []
    fit = Regression()
    fit.fit = fit.fit * 1e6

    def held_out():
        steps.append(fit.weight.grad)
        return 1.0

    fit.train(replace(RECIPE, steps=1), held_out=held_out)
    assert steps == [None, None]  # nothing is left over either
    norms = []
    original = torch.optim.AdamW.step

    def spy(optimizer, *args, **kwargs):
        norms.append(float(fit.weight.grad.norm()))
        return original(optimizer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        fit.train(replace(RECIPE, steps=2))
    assert norms == pytest.approx([1.0, 1.0], rel=1e-4)


def test_the_best_check_is_kept_even_if_it_is_the_first():
    fit = Regression()
    fit.held_out = -fit.held_out  # learning makes it worse
    best = fit.train()
    assert torch.equal(fit.weight.detach(), torch.zeros(4))
    assert best == fit.checks[0].held_out


def test_it_ends_early_when_checks_are_in_vain():
    fit = Regression()
    fit.held_out = -fit.held_out
    fit.train(replace(RECIPE, patience=2))
    assert [check.step for check in fit.checks] == [0, 4, 8]


def test_a_part_of_a_longer_fit_counts_on():
    fit = Regression()
    fit.train(replace(RECIPE, steps=10), first=30, steps=40)
    assert [(check.step, check.steps) for check in fit.checks] == [(30, 40), (34, 40), (38, 40), (40, 40)]
    whole = Regression()
    whole.train()
    assert fit.seen == whole.seen[-len(fit.seen) :]


def test_no_steps_change_nothing():
    fit = Regression()
    assert fit.train(replace(RECIPE, steps=0)) == fit.held_out_loss()
    assert torch.equal(fit.weight.detach(), torch.zeros(4))
    assert fit.asked == 0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_an_error_that_says_what_to_do(loss):
    fit = Regression()
    calls = itertools.count()

    def backward(rows):
        fit.backward(rows)
        return loss if next(calls) == 7 else 1.0

    with pytest.raises(DivergedError, match=rf"Healing 'test' diverged at step 7 \(loss {loss}\).*lr=0\.01") as caught:
        fit.train(backward=backward)
    assert isinstance(caught.value, UsageError)


def test_a_plan_that_is_broken_from_the_start_is_told_apart():
    with pytest.raises(DivergedError, match="cannot begin"):
        Regression().train(held_out=lambda: math.nan)


def test_checks_cost_little_beside_the_training():
    for steps, batch, held_out in itertools.product((1, 10, 20, 200, 3000), (1, 4), (1, 32, 500)):
        every = steps_between_checks(steps, batch, held_out)
        checks = math.ceil(steps / every)
        assert 1 <= checks <= CHECKS
        assert checks == 1 or checks * held_out <= 1.5 * CHECKING * 3 * batch * steps
    assert steps_between_checks(0, 4, 32) == 1
