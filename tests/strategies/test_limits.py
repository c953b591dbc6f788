"""Every strategy over spaces, limits, protected units, starts and budgets of every kind, as the command line has them."""

import dataclasses
import math
import random
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from searcher.contracts import registry
from searcher.contracts.amounts import Amounts
from searcher.contracts.cost import Prices
from searcher.contracts.games import additive_game, interacting_game, noisy_game, play
from searcher.contracts.plan import Granularity, Part, PrunePlan, all_units
from searcher.contracts.statistics import shape_of
from searcher.contracts.tariff import Tariff
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.options import make_config
from searcher.search.opening import open_space
from searcher.testing import check_search

WINDOWS = 8
STRATEGIES = [
    ("bayesian", {"effort": 0.5, "batch": 3, "finalists": 4}),
    ("beam", {}),
    ("contiguous", {}),
    ("contiguous", {"metric": "loss"}),
    ("evopress", {"generations": 3, "offspring": 4, "beginnings": 4, "last": 3}),
    ("evolutionary", {"generations": 3, "offspring": 6, "survivors": 3}),
    ("evolutionary", {"begin": "random", "generations": 3, "offspring": 4, "survivors": 2}),
    ("exhaustive", {}),
    ("exhaustive", {"spans": True}),
    ("exhaustive", {"every": 2}),
    ("gates", {"plans": 12, "samples": 3, "steps": 5}),
    ("greedy", {}),
    ("influence", {}),
    ("influence", {"metric": "loss"}),
    ("influence", {"metric": "reverse"}),
    ("interactions", {"rounds": 2, "batch": 4}),
    ("interactions", {"begin": "random", "rounds": 2, "batch": 2}),
    ("interactions", {"surrogate": "pairs", "rounds": 1}),
    ("local", {"doubles": 4}),
    ("local", {"begin": "random", "doubles": 4, "repeats": 2}),
    ("optuna", {"sampler": "random", "trials": 10, "patience": 6}),
    ("optuna", {"sampler": "tpe", "trials": 12, "patience": 6}),
    ("oscillating", {"swing": 2}),
    ("oscillating", {"begin": "random"}),
    ("portfolio", {"effort": 0.3}),
    ("random", {"samples": 12}),
    ("shapley", {}),
    ("shapley", {"adaptive": True, "chains": 2}),
    ("shapley", {"full": True}),
    ("shapley", {"estimator": "permutation"}),
]
"""Every strategy there is, with few rounds and in all its ways."""


def test_no_strategy_is_left_out():
    assert {name for name, _ in STRATEGIES} == registry.BUILT_IN["strategy"].keys()


@cache
def game_of(seed, noise):
    """A game of eight blocks, in which a seventh of all plans break the model."""
    inner = interacting_game(seed, 8) if seed % 2 else additive_game(seed, 8)

    def game(plan):
        broken = sum((unit.block + 1) * (3 + (unit.part == "ffn")) for unit in plan.removed) % 7 == seed % 14
        return math.inf if broken else inner(plan)

    return noisy_game(game, seed, WINDOWS, 0.1) if noise else game


def configuration(rng):
    """What a user may ask for, and a model of that many blocks: its configuration, blocks and amounts."""
    granularity, blocks = rng.choice([*Granularity, Granularity.SUBLAYER, Granularity.SUBLAYER]), rng.randint(1, 7)
    units = all_units(blocks, granularity)
    size = rng.randint(1, min(6, len(units)))
    budget = rng.choice([f"{size}", f"{rng.randint(1, size)}-{size}", f"{rng.randint(1, 100)}%"])
    keep = rng.sample(units, rng.choice([0, 0, len(units) // 4]))
    options = {"granularity": granularity, "budget": budget, "keep": ",".join(map(str, sorted(keep)))}
    if granularity is Granularity.SUBLAYER:
        for part in ("attention", "ffn"):
            options[f"max_{part}"] = rng.choice([None, rng.randint(0, blocks)])
    amounts = amounts_of(rng, blocks, alike=rng.random() < 0.3)
    tried = [rng.sample(units, size) for _ in range(5)]
    removed = max(tried, key=amounts["kv-cache"].removed)  # keeps to the bounds, if nothing else rules it out
    for name in rng.sample(sorted(amounts), rng.choice([0, 1, 1, 2, 2])):
        left = 1 - amounts[name].removed(removed) / amounts[name].whole
        at_most = rng.choice([math.ceil(100 * left), math.ceil(100 * left), rng.randint(20, 100)])
        options.setdefault("at_most", {})[name] = f"{at_most}%"
    return make_config(RunConfig, options | {"seed": rng.randint(0, 3)}), blocks, amounts


def amounts_of(rng, blocks, alike):
    """What the parts of a model take: all blocks alike or not; only attention keeps anything in a cache."""
    drawn = [[rng.randint(1, 9)] * blocks if alike else [rng.randint(1, 9) for _ in range(blocks)] for _ in range(3)]
    cache_, attention, ffn = (tuple(map(float, row)) for row in drawn)
    block = tuple(a + f for a, f in zip(attention, ffn, strict=True))
    return {
        "kv-cache": Amounts(sum(cache_), cache_, cache_, (0.0,) * blocks),
        "parameters": Amounts(1.1 * sum(block), block, attention, ffn),
    }


def keeps_to(config, amounts, plan):
    """Whether a plan of the full size keeps to all limits of the configuration; protected units aside."""
    units = plan.units(config.granularity)
    limits = {Part.ATTENTION: config.max_attention, Part.FFN: config.max_ffn}
    few = all(most is None or sum(unit.part is part for unit in units) <= most for part, most in limits.items())
    shares = {name: float(text[:-1]) / 100 for name, text in config.at_most.items()}
    left = {name: amounts[name].whole - amounts[name].removed(units) for name in shares}
    return few and all(left[name] <= share * amounts[name].whole * (1 + 1e-12) + 1e-9 for name, share in shares.items())


def attempted(call):
    """What came out, or None and why it was refused."""
    try:
        return call(), ""
    except UsageError as error:
        return None, str(error)


def opened(config, blocks, amounts):
    """The space, and its plans of the full size by trying all; nothing where it is refused, and rightly so."""
    free = make_config(RunConfig, {"granularity": config.granularity, "budget": config.budget, "keep": config.keep})
    base, _ = attempted(lambda: open_space(free, blocks, WINDOWS))
    if base is None:
        return None  # fewer units than the budget asks for
    full = [p for p in map(PrunePlan.of, combinations(base.units, base.size)) if keeps_to(config, amounts, p)]
    space, refusal = attempted(lambda: open_space(config, blocks, WINDOWS, amounts))
    if space is None:
        assert not full, f"{refusal}, but {full[0]} does"
        return None
    assert full, "no plan keeps to the limits, and yet it was not refused"
    assert list(space.plans(space.size)) == full
    return space


def rightly_refused(name, options, space):
    """Whether a strategy has reason to refuse a space: there is no plan of the shape that it was told to keep to."""
    if name == "shapley":
        return "full" in options or "estimator" in options
    narrow = space.units[:: options.get("every", 1)]
    order = all_units(space.num_blocks, space.granularity) if name == "contiguous" else narrow
    spans = (order[i : i + space.size] for i in range(len(order) - space.size + 1))
    shaped = combinations(narrow, space.size) if "every" in options else spans
    return name in ("contiguous", "exhaustive") and not any(space.allows(PrunePlan.of(units)) for units in shaped)


def case_of(seed):
    """A strategy, and a space with a start and limits to what may be measured."""
    rng = random.Random(seed)
    name = rng.choice(sorted(registry.BUILT_IN["strategy"]))
    options = rng.choice([options for other, options in STRATEGIES if other == name])
    strategy = registry.make("strategy", name, options)
    space = None
    while space is None:  # refused, because there is no legal plan
        config, blocks, amounts = configuration(rng)
        space = opened(config, blocks, amounts)
    made_up = np.random.default_rng(seed)
    shapes = {one: shape_of(one, space.units, blocks, WINDOWS) for one in strategy.statistics}
    space = dataclasses.replace(space, statistics={one: made_up.uniform(0.1, 0.9, shapes[one]) for one in shapes})
    if strategy.starts and rng.random() < 0.4:
        space = dataclasses.replace(space, start=space.sample(made_up, rng.choice(space.sizes)))
    if strategy.races and rng.random() < 0.5:
        space = dataclasses.replace(space, racing=0.05)
    prices = Prices((1.0, 0.7, 0.3, 0.0), rng.choice([0.1, 2.0]))
    dense = Tariff(blocks, prices, WINDOWS, 1, 1.0, 0.0, 1.0, 0.0).ask([PrunePlan()], WINDOWS, own=True)
    plans = rng.uniform(1, 40)
    cost = plans * (dense.layer_forwards + dense.heads * prices.head)
    limits = rng.choice([{}, {}, {"max_evaluations": plans}, {"max_cost": cost, "prices": prices}])
    return name, options, strategy, space, limits


def check(seed):
    """Nothing illegal, nothing beyond a limit, no exception; the same questions with the same seed."""
    case = case_of(seed)
    note(str(case))
    name, options, strategy, space, limits = case
    game = game_of(seed % 14, space.racing is not None)
    played, refusal = attempted(lambda: check_search(strategy, space, game, **limits))
    if played is None:
        assert rightly_refused(name, options, space), refusal
        return
    assert play(strategy, space, game, **limits) == played
    if not limits:
        every = {space.size_of(plan) for plan in played.outcome.plans}
        assert every >= set(space.sizes) or "every" in options
        assert space.size_of(played.outcome.plans[0]) == space.size


def test_many_cases_have_limits_that_rule_something_out_and_leave_something_to_choose():
    spaces = [case_of(seed)[3] for seed in range(60)]
    assert sum(not space.all_legal for space in spaces) > 20
    assert sum(space.count(space.size) > 5 for space in spaces) > 20


SEEDS = st.integers(0, 2**32 - 1)
"""Of cases drawn evenly: left to itself, Hypothesis would try the smallest space and the first strategy again and again."""
WHATEVER = {
    "deadline": None,
    "database": None,
    "phases": [Phase.generate],  # a smaller seed is no smaller case
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=80, derandomize=True, **WHATEVER)
@given(SEEDS)
def test_every_strategy_keeps_to_limits_of_every_kind(seed):
    check(seed)


@pytest.mark.slow
@settings(max_examples=2000, **WHATEVER)
@given(SEEDS)
def test_every_strategy_keeps_to_limits_of_every_kind_in_two_thousand_cases(seed):
    check(seed)
