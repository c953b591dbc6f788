"""Every strategy over spaces, limits, protected units, starts and budgets of every kind, as the command line has them."""

import dataclasses
import math
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searcher import registry
from searcher.amounts import Amounts
from searcher.config import RunConfig, make_config
from searcher.cost import Prices, Tariff
from searcher.errors import UsageError
from searcher.games import additive_game, interacting_game, noisy_game, play
from searcher.plan import Granularity, Part, PrunePlan, all_units
from searcher.search_space import open_space
from searcher.statistics import shape_of
from searcher.testing import check_search

WINDOWS = 8
STRATEGIES = [
    ("beam", {}),
    ("contiguous", {}),
    ("contiguous", {"metric": "loss"}),
    ("evolutionary", {"generations": 3, "offspring": 6, "survivors": 3}),
    ("evolutionary", {"begin": "random", "generations": 3, "offspring": 4, "survivors": 2}),
    ("exhaustive", {}),
    ("exhaustive", {"spans": True}),
    ("exhaustive", {"every": 2}),
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


@st.composite
def configurations(draw):
    """What a user may ask for, and a model of that many blocks: its configuration, blocks and amounts."""
    granularity = draw(st.sampled_from(list(Granularity)))
    blocks = draw(st.integers(1, 7))
    units = all_units(blocks, granularity)
    keep = draw(st.sets(st.sampled_from(units), max_size=len(units) // 3))
    most = min(6, len(units))
    size = draw(st.integers(1, most))
    budget = draw(st.sampled_from([str(size), f"{draw(st.integers(1, size))}-{size}", f"{draw(st.integers(1, 100))}%"]))
    options = {"granularity": granularity, "budget": budget, "keep": ",".join(map(str, sorted(keep)))}
    if granularity is Granularity.SUBLAYER:
        for part in ("attention", "ffn"):
            options[f"max_{part}"] = draw(st.none() | st.integers(0, blocks))
    names = draw(st.sets(st.sampled_from(["kv-cache", "parameters"]), max_size=2))
    options["at_most"] = {name: f"{draw(st.integers(20, 100))}%" for name in sorted(names)}
    alike = draw(st.booleans())
    amounts = {name: amounts_of(blocks, name, draw(st.integers(0, 99)), alike) for name in names}
    return make_config(RunConfig, options | {"seed": draw(st.integers(0, 3))}), blocks, amounts


def amounts_of(blocks, name, seed, alike):
    """What the parts of a model take: all blocks alike or not; only attention keeps anything in a cache."""
    drawn = np.random.default_rng(seed).integers(1, 9, (2, blocks)).astype(float)
    attention, ffn = np.repeat(drawn[:, :1], blocks, axis=1) if alike else drawn
    ffn = ffn * (name == "parameters")
    both = attention + ffn
    return Amounts(float(both.sum() * 1.1), *(tuple(part.tolist()) for part in (both, attention, ffn)))


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


@st.composite
def cases(draw):
    """A strategy, and a space with a start and limits to what may be measured."""
    config, blocks, amounts = draw(configurations())
    name, options = draw(st.sampled_from(STRATEGIES))
    strategy = registry.make("strategy", name, options)
    space = opened(config, blocks, amounts)
    if space is None:
        return None
    made_up = np.random.default_rng(config.seed)
    shapes = {one: shape_of(one, space.units, blocks) for one in strategy.statistics}
    space = dataclasses.replace(space, statistics={one: made_up.uniform(0.1, 0.9, shapes[one]) for one in shapes})
    if strategy.starts and draw(st.booleans()):
        start = space.sample(made_up, draw(st.sampled_from(space.sizes)))
        space = dataclasses.replace(space, start=start)
    if strategy.races and draw(st.booleans()):
        space = dataclasses.replace(space, racing=0.05)
    prices = Prices((1.0, 0.7, 0.3, 0.0), draw(st.sampled_from([0.1, 2.0])))
    one = Tariff(blocks, prices, WINDOWS, 1, 1.0, 0.0, 1.0, 0.0).ask([PrunePlan()], WINDOWS, own=True)
    least = one.layer_forwards + one.heads * prices.head
    limits = draw(
        st.sampled_from([{}])
        | st.fixed_dictionaries({"max_evaluations": st.integers(1, 40)})
        | st.fixed_dictionaries({"max_cost": st.floats(1, 40).map(least.__mul__), "prices": st.just(prices)})
    )
    return name, options, strategy, space, limits


def check(case, seed):
    """Nothing illegal, nothing beyond a limit, no exception; the same questions with the same seed."""
    if case is None:
        return
    name, options, strategy, space, limits = case
    game = game_of(seed, space.racing is not None)
    played, refusal = attempted(lambda: check_search(strategy, space, game, **limits))
    if played is None:
        assert rightly_refused(name, options, space), refusal
        return
    assert play(strategy, space, game, **limits) == played
    if not limits:
        every = {space.size_of(plan) for plan in played.outcome.plans}
        assert every >= set(space.sizes) or "every" in options
        assert space.size_of(played.outcome.plans[0]) == space.size


WHATEVER = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=60, derandomize=True, **WHATEVER)
@given(cases(), st.integers(0, 13))
def test_every_strategy_keeps_to_limits_of_every_kind(case, seed):
    check(case, seed)


@pytest.mark.slow
@settings(max_examples=2000, **WHATEVER)
@given(cases(), st.integers(0, 13))
def test_every_strategy_keeps_to_limits_of_every_kind_in_two_thousand_cases(case, seed):
    check(case, seed)
