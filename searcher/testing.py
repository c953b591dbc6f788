"""Contract tests for strategies and objectives, to be subclassed under pytest by authors of plug-ins.

    # tests/test_mine.py
    from searcher.testing import ObjectiveContract, StrategyContract

    class TestMyStrategy(StrategyContract):
        name = "my_package.my_strategy:MyStrategy"
        options = {"rounds": 3}

    class TestMyObjective(ObjectiveContract):
        name = "my_objective.py:MyObjective"

Strategies play against synthetic games, where a plan's score is a formula; objectives measure tiny random models.
"""

import copy
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, cycle, pairwise
from typing import Any, ClassVar
from unittest import SkipTest  # pytest knows it, and need not be there to import this

import numpy as np
import torch

from searcher.contracts import registry
from searcher.contracts.cost import Prices
from searcher.contracts.games import (
    Game,
    Played,
    WindowGame,
    additive_game,
    asked,
    limited_spaces,
    make_space,
    noisy_game,
    play,
)
from searcher.contracts.objective import Objective
from searcher.contracts.plan import Granularity, PrunePlan, Unit
from searcher.contracts.space import Space
from searcher.contracts.strategy import Strategy
from searcher.errors import UsageError
from searcher.evaluation.open_executor import open_executor
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements


def check_search(strategy: Strategy, space: Space, game: Game | WindowGame, **limits: Any) -> Played:
    """Play a search and check that it keeps to the limits of its space, and to those of :func:`play` that are given.

    Every plan asked for is legal, and so is every plan it stands for; one of them has the full size.
    """
    played = play(strategy, space, game, **limits)
    for plan in played.plans:
        assert space.allows(plan), f"{plan} was asked for, and is not legal"
    stands_for = played.outcome.plans if played.outcome is not None else ()
    for plan in stands_for:
        assert space.allows(plan), f"{plan} came out, and is not legal"
    if played.outcome is not None:
        assert space.size in map(space.size_of, stands_for), "no plan of the full size"
    assert played.charged.evaluations <= limits.get("max_evaluations", np.inf) + 1e-9
    return played


class StrategyContract:
    """What every strategy must do. Subclass it, set `name` and, where needed, `options`."""

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    finds_optimum: ClassVar[bool] = True
    """Whether it finds the best of 15 plans; not so for a strategy that looks at few plans, whatever they score."""

    def make(self) -> Strategy:
        """A new instance."""
        strategy: Strategy = registry.make("strategy", self.name, self.options)
        return strategy

    def space(self, num_blocks: int, size: int, granularity: Granularity = Granularity.BLOCK) -> Space:
        """A space with the statistics that the strategy has declared."""
        return make_space(num_blocks, size, granularity=granularity, statistics=self.make().statistics)

    def test_documents_itself(self) -> None:
        """The class says what it does."""
        assert (type(self.make()).__doc__ or "").strip()

    def test_asks_for_legal_plans_and_returns_the_full_size(self) -> None:
        """At every granularity."""
        for granularity in Granularity:
            space = self.space(7, 3, granularity=granularity)
            played = play(self.make(), space, additive_game())
            legal = set(space.units)
            for plan in played.plans:
                assert legal.issuperset(plan.units(granularity)), f"{plan} removes what it may not"
            assert played.outcome is not None
            assert 3 in [plan.size(granularity) for plan in played.outcome.plans], "no plan of the size asked for"

    def test_finds_a_planted_optimum(self) -> None:
        """In an additive game of 15 plans."""
        if not self.finds_optimum:
            raise SkipTest("the strategy need not find it")
        space, game = self.space(6, 2), additive_game(seed=1)
        played = play(self.make(), space, game)
        assert played.outcome is not None
        best = min((PrunePlan.of(pair) for pair in combinations(space.units, 2)), key=game)
        assert next(plan for plan in played.outcome.plans if plan.size(Granularity.BLOCK) == 2) == best

    def test_same_seed_same_questions_in_a_fresh_process(self) -> None:
        """Whatever the hash seed of the process, and the threads of its linear algebra."""
        ask = f"games.asked({self.name!r}, {dict(self.options)!r}, 5)"
        code = f"import json; from searcher.contracts import games; print(json.dumps({ask}))"
        varied = ("PYTHONHASHSEED", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        command, environments = [sys.executable, "-c", code], [os.environ | dict.fromkeys(varied, n) for n in "12"]
        processes = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for env in environments]
        here = asked(self.name, self.options, 5)
        for process in processes:
            found, _ = process.communicate()
            assert process.returncode == 0
            assert json.loads(found) == here

    def test_playing_twice_with_one_instance_is_the_same(self) -> None:
        """A strategy keeps no state between searches."""
        strategy, space = self.make(), self.space(8, 3)
        assert play(strategy, space, additive_game()) == play(strategy, space, additive_game())

    def test_can_be_stopped_at_any_ask(self) -> None:
        """It returns a plan of the full size, or leaves the outcome to the runner."""
        asks = len(play(self.make(), self.space(7, 3), additive_game()).asks)
        for stop_at in range(asks):
            played = play(self.make(), self.space(7, 3), additive_game(), stop_at=stop_at)
            if played.outcome is not None and played.outcome.plans:
                assert 3 in [plan.size(Granularity.BLOCK) for plan in played.outcome.plans]

    def test_plans_that_break_the_model_are_avoided(self) -> None:
        """Score `inf` is an answer like any other, only the worst."""

        def game(plan: PrunePlan) -> float:
            return np.inf if Unit(0) in plan.removed else additive_game()(plan)

        played = play(self.make(), self.space(6, 2), game)
        assert played.outcome is not None
        best = next(plan for plan in played.outcome.plans if plan.size(Granularity.BLOCK) == 2)
        assert np.isfinite(game(best))

    def test_racing_saves_work_and_ends_with_a_plan_measured_in_full(self) -> None:
        """Also when stopped at any ask; and it changes nothing for a strategy that does not say it races."""
        strategy = self.make()
        in_full = dataclasses.replace(self.space(10, 2), num_windows=32)
        racing = dataclasses.replace(in_full, racing=0.05)
        game = noisy_game(additive_game(seed=2), 0, racing.num_windows, noise=0.1)
        plain, raced = play(strategy, in_full, game), play(strategy, racing, game)
        if not strategy.races:
            assert raced == plain
            return
        assert raced.evaluations(racing) < plain.evaluations(in_full), "racing saves nothing"
        assert raced.outcome is not None
        best = next(plan for plan in raced.outcome.plans if plan.size(Granularity.BLOCK) == 2)
        assert any(best in ask.plans for ask in raced.asks if ask.windows is None), f"{best} was not measured in full"
        for stop_at in range(len(raced.asks)):
            outcome = play(strategy, racing, game, stop_at=stop_at).outcome
            assert outcome is None or 2 in [plan.size(Granularity.BLOCK) for plan in outcome.plans]

    def test_limits_of_every_kind_hold(self) -> None:
        """Legal plans only, whatever is needed, limited, protected or begun from; and no more than may be measured.

        A strategy may refuse a space with a `UsageError` before it asks.
        """
        strategy = self.make()
        prices = Prices((1.0, 0.7, 0.3, 0.0), 1.0)
        limits: Iterator[dict[str, Any]]
        limits = cycle([{}, {"max_evaluations": 20.0}, {"max_cost": 200.0, "prices": prices}, {"max_evaluations": 2.0}])
        for (name, space), limit in zip(limited_spaces(strategy.statistics).items(), limits, strict=False):
            if space.start is not None and not strategy.starts:
                continue
            try:
                check_search(strategy, space, additive_game(), **limit)
            except UsageError:
                continue
            except Exception as error:
                error.add_note(f"with {name}, {limit}")
                raise

    def test_notes_are_json(self) -> None:
        """They are kept in the run folder."""
        played = play(self.make(), self.space(7, 3), additive_game())
        assert played.outcome is not None
        assert json.loads(json.dumps(played.outcome.notes, allow_nan=False)) == played.outcome.notes


def tiny_llama(seed: int = 0) -> Any:
    """A random Llama of 4 blocks in float32, with weights large enough for every part to matter."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def tiny_tokenizer() -> Any:
    """A tokenizer of 97 entries for :func:`tiny_llama`; words it does not know share an id."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[UNK]": 0} | {chr(32 + i): i for i in range(1, 95)} | {"[BOS]": 95, "[EOS]": 96}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


class ObjectiveContract:
    """What every objective must do. Subclass it, set `name` and, where needed, `options`."""

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    plans: ClassVar[Sequence[str]] = ("dense", "0", "2", "1-2", "0.attn,3.ffn")

    def make(self) -> Objective:
        """A new instance."""
        objective: Objective = registry.make("objective", self.name, self.options)
        return objective

    def measured(self, model: Any, plans: Sequence[str]) -> tuple[Objective, dict[str, list[float]]]:
        """The objective, and its numbers for each plan on the search split, all plans in one batch."""
        objective = self.make()
        windows = torch.randint(97, (3, 24), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            replay = open_replay(model, Granularity.SUBLAYER)
            prices = measure_prices(replay, windows.shape[1])
            executor = open_executor(replay, {"it": objective}, {"search": windows}, tiny_tokenizer(), prices)
        known = Measurements(executor.layout)
        for line in executor.measure("search", [PrunePlan.parse(plan) for plan in plans], known):
            known.add(line)
        return objective, {plan: known.rows("search", PrunePlan.parse(plan), "it").tolist() for plan in plans}

    def test_documents_itself(self) -> None:
        """The class says what it measures, in what unit."""
        objective = self.make()
        assert (type(objective).__doc__ or "").strip()
        assert objective.unit

    def test_gives_finite_values(self) -> None:
        """For plans that leave a working model, and in the range said; the evaluator checks for one number a row."""
        objective, rows = self.measured(tiny_llama(), self.plans)
        least, largest = (0.0, 1.0) if objective.unit == "share" else objective.within
        for plan, numbers in rows.items():
            value = objective.value(np.array(numbers))
            assert np.isfinite(value), (plan, value)
            assert least - 1e-6 <= value <= largest + 1e-6, (plan, value, least, largest)

    def test_a_plan_does_not_depend_on_the_others(self) -> None:
        """The same numbers alone, in a batch and in another order."""
        _, together = self.measured(tiny_llama(), self.plans)
        _, backwards = self.measured(tiny_llama(), self.plans[::-1])
        assert together.keys() == backwards.keys()
        if not self.make().repeatable:
            raise SkipTest("measuring again gives other numbers")
        assert together == backwards
        for plan in self.plans:
            assert self.measured(tiny_llama(), [plan])[1][plan] == together[plan]

    def test_leaves_the_model_as_it_was(self) -> None:
        """Not one bit may stay changed."""
        model = tiny_llama()
        before = copy.deepcopy(model.state_dict())
        self.measured(model, self.plans)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_finish_is_increasing(self) -> None:
        """So that it can be applied to the ends of an interval."""
        values = [self.make().finish(mean) for mean in np.linspace(0.1, 5.0, 20)]
        assert all(one < other for one, other in pairwise(values))

    def test_a_broken_model_is_no_error(self) -> None:
        """NaN in the hidden states may give NaN or a number, but must not raise."""
        model = tiny_llama()
        model.model.layers[1].mlp.down_proj.weight.mul_(float("inf"))
        objective = self.make()
        windows = torch.randint(97, (2, 24), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            sound = open_replay(tiny_llama(), Granularity.BLOCK)
            prices = measure_prices(sound, windows.shape[1])
            sound.architecture.blocks[1].load_state_dict(model.model.layers[1].state_dict())
            executor = open_executor(sound, {"it": objective}, {"search": windows}, tiny_tokenizer(), prices)
        lines = list(executor.measure("search", [PrunePlan()], Measurements(executor.layout)))
        assert all(len(line.values["it"]) == len(line.rows) for line in lines)
