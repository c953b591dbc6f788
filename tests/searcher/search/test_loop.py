"""The search loop: limits, the ledger, misbehaving strategies, and a planted redundant block."""

import contextlib
import time
from itertools import combinations

import numpy as np
import pytest
import torch
from families import tiny_model

from objectives.loss import Loss, Perplexity
from searcher.contracts.cost import Prices
from searcher.contracts.ledger import Ledger, Limits
from searcher.contracts.plan import Granularity, PrunePlan, Unit, all_units
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Outcome, SearchStopped, Strategy
from searcher.contracts.tariff import Tariff
from searcher.errors import UsageError
from searcher.evaluation.open_executor import open_executor
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay
from searcher.runs.journal import Journal, read_evaluations
from searcher.runs.measurement import Measurements
from searcher.search.goals import Goals
from searcher.search.loop import STALE_ROUNDS, SearchLoop
from searcher.search.recorder import Recorder
from searcher.search.selection import chosen_plans
from searcher.testing import tiny_llama, tiny_tokenizer
from strategies.greedy import Greedy
from strategies.random import Random
from strategies.shapley import Shapley

IDS = torch.randint(97, (4, 16), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def make_loop(tmp_path):
    """A loop over a tiny model, its journal in a temporary folder."""
    journals = []

    def make(
        size=2, *, model=None, ids=IDS, limits=None, deadline=None, objectives=None, granularity=Granularity.BLOCK
    ):
        model = model or tiny_llama()
        with torch.inference_mode():
            replay = open_replay(model, granularity)
            prices = measure_prices(replay, ids.shape[1])
            objectives = objectives or {"perplexity": Perplexity()}
            executor = open_executor(replay, objectives, {"search": ids}, tiny_tokenizer(), prices)
        journal = Journal(tmp_path / str(len(journals))).__enter__()
        journals.append(journal)
        recorder = Recorder(executor, journal, Measurements(executor.layout))
        tariff = Tariff(replay.num_blocks, prices, len(ids), ids.shape[1], 1.0, 0.0, 1.0, 0.0)
        ledger = Ledger(tariff, limits or Limits())
        units = all_units(replay.num_blocks, granularity)
        space = Space(replay.num_blocks, granularity, units, (size,), len(ids), 0, ledger.fits)
        return SearchLoop(space, recorder, ledger, Goals(objectives, tuple(objectives)), deadline)

    yield make
    for journal in journals:
        journal.__exit__(None, None, None)


def sizes(plans):
    return [plan.size(Granularity.BLOCK) for plan in plans]


def measure(loop, ask):
    loop.recorder.measure("search", ask.plans, ask.windows)
    loop.ledger.charge(ask.plans, ask.windows)


def sharpened_model(planted):
    """A model of 6 blocks sure of what it says, one of them all but idle."""
    model = tiny_model("llama", num_blocks=6)
    model.lm_head.weight.mul_(3.0)
    for branch in (model.model.layers[planted].self_attn.o_proj, model.model.layers[planted].mlp.down_proj):
        branch.weight.mul_(1e-3)
    return model


@torch.inference_mode()
def sampled(model, rows, tokens):
    """Text of the model's own: (rows, tokens), drawn from what it predicts."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (rows, 1), generator=generator)
    while ids.shape[1] < tokens:
        chances = model(input_ids=ids, use_cache=False).logits[:, -1].softmax(dim=-1)
        ids = torch.cat([ids, chances.multinomial(1, generator=generator)], dim=1)
    return ids


@pytest.mark.parametrize("planted", [1, 4])
@pytest.mark.parametrize("strategy", [Greedy(), Shapley()], ids=["greedy", "shapley"])
def test_a_planted_redundant_block_is_found_first(make_loop, strategy, planted):
    model = sharpened_model(planted)
    loop = make_loop(3, model=model, ids=sampled(model, 8, 24))
    singles = tuple(PrunePlan((unit,)) for unit in loop.space.units)
    measure(loop, Ask((PrunePlan(), *singles)))
    dense, *alone = loop.scores(Ask((PrunePlan(), *singles))).first
    hurts = dict(zip(range(6), np.array(alone) - dense, strict=True))
    assert all(hurt > 0.1 for block, hurt in hurts.items() if block != planted), "every real block must matter"
    assert abs(hurts[planted]) < 0.01

    outcome = loop.run(strategy)
    chosen = chosen_plans(loop, outcome)
    assert str(chosen[1]) == str(planted)
    assert all(Unit(planted) in plan.removed for plan in chosen.values())
    first = outcome.notes["steps"][0]["plan"] if "steps" in outcome.notes else next(iter(outcome.notes["units"]))
    assert first == str(planted)


def test_the_best_measured_plan_of_each_size_is_chosen(make_loop):
    loop = make_loop(2)
    outcome = loop.run(Random(samples=6))  # all plans of two blocks of four
    best = min(
        (PrunePlan.of(pair) for pair in combinations(loop.space.units, 2)),
        key=lambda plan: loop.recorder.known.rows("search", plan, "perplexity").mean(),
    )
    assert chosen_plans(loop, outcome) == {2: best}


@pytest.mark.parametrize("most", [1, 2, 5, 6, 8, 11, 100])
@pytest.mark.parametrize("strategy", [Greedy(), Shapley(), Random()], ids=["greedy", "shapley", "random"])
def test_limits_hold_and_the_plan_has_the_full_size(make_loop, strategy, most):
    loop = make_loop(2, limits=Limits(max_evaluations=most))
    outcome = loop.run(strategy)
    assert loop.ledger.charged.evaluations <= most
    assert 2 in chosen_plans(loop, outcome)

    cost = loop.ledger.tariff.total(loop.ledger.charged)
    again = make_loop(2, limits=Limits(max_cost=cost))
    outcome = again.run(strategy)
    assert again.ledger.tariff.total(again.ledger.charged) <= cost * (1 + 1e-6)
    assert 2 in chosen_plans(again, outcome)


@pytest.mark.parametrize("strategy", [Greedy(), Shapley(), Random()], ids=["greedy", "shapley", "random"])
def test_a_timeout_ends_with_a_plan_of_the_full_size(make_loop, strategy):
    loop = make_loop(2, deadline=time.monotonic() - 1)
    outcome = loop.run(strategy)
    assert loop.stopped == "timeout"
    assert 2 in chosen_plans(loop, outcome)


def test_a_timeout_within_a_batch_hands_over_what_was_measured(make_loop):
    seen = []

    class Watching(Strategy):
        def search(self, space):
            try:
                yield Ask(tuple(PrunePlan((unit,)) for unit in space.units))
            except SearchStopped as stop:
                seen.append(stop)
            return Outcome((PrunePlan.of(space.units[:2]),))

    class Slow(Perplexity):
        def measure(self, candidate):
            time.sleep(1.1)  # time runs out with the first plan of each thread
            return super().measure(candidate)

    loop = make_loop(2, objectives={"perplexity": Slow()}, ids=torch.randint(97, (6, 512)))
    loop.deadline = time.monotonic() + 1
    loop.run(Watching())
    assert seen[0].reason == "timeout"
    assert np.isnan(seen[0].scores.first).sum() >= 1
    assert len(loop.recorder.lines) >= 1
    rows = [loop.recorder.known.rows("search", line.plan, "perplexity") for line in loop.recorder.lines]
    assert np.isfinite(rows).any(axis=1).all()  # what had been begun was kept


class Careless(Strategy):
    """Knows nothing of limits."""

    def search(self, space):
        for pair in combinations(space.units, 2):
            yield Ask((PrunePlan.of(pair[:1]),))
            yield Ask((PrunePlan.of(pair),))
        return Outcome(())


@pytest.mark.parametrize("most", [1, 3, 50])
def test_a_strategy_that_knows_no_limits_still_ends_well(make_loop, most):
    loop = make_loop(2, limits=Limits(max_evaluations=most))
    outcome = loop.run(Careless())
    assert loop.ledger.charged.evaluations <= most
    assert 2 in chosen_plans(loop, outcome)


def test_rounds_without_a_new_plan_end_the_search(make_loop):
    class Stubborn(Strategy):
        def search(self, space):
            while True:
                yield Ask((PrunePlan.of(space.units[:2]),))

    loop = make_loop(2)
    loop.run(Stubborn())
    assert loop.stopped == f"{STALE_ROUNDS} rounds without a new plan"
    assert loop.ledger.charged.evaluations == 1


@pytest.mark.parametrize("ask", [Ask((PrunePlan.parse("9"),)), Ask((PrunePlan(),), windows=(4,))])
def test_illegal_questions_are_refused(make_loop, ask):
    class Wrong(Strategy):
        def search(self, space):
            yield ask
            return Outcome(())

    with pytest.raises(UsageError, match="The strategy asked for"):
        make_loop(2).run(Wrong())


def test_an_outcome_must_be_an_outcome(make_loop):
    class Wrong(Strategy):
        def search(self, space):
            yield Ask((PrunePlan(),))
            return None

    with pytest.raises(UsageError, match="returned NoneType"):
        make_loop(2).run(Wrong())


def test_scores_are_additive_lower_is_better_and_by_window(make_loop):
    class Skill(Loss):
        """The same, the other way round."""

        lower_is_better = False

        def measure(self, candidate):
            return -super().measure(candidate)

    loop = make_loop(2, objectives={"perplexity": Perplexity(), "skill": Skill()})
    asked = Ask((PrunePlan(), PrunePlan.parse("1")), windows=(1, 3))
    measure(loop, asked)
    scores = loop.scores(asked)
    np.testing.assert_array_equal(scores.values[:, 0], scores.values[:, 1])
    rows = loop.recorder.known.rows("search", PrunePlan(), "perplexity")
    assert scores.first[0] == rows[[1, 3]].mean()
    np.testing.assert_array_equal(scores.per_window[0, 0], [np.nan, rows[1], np.nan, rows[3]])


def test_a_broken_plan_scores_inf_and_an_unmeasured_one_nan(make_loop):
    model = tiny_llama()
    loop = make_loop(2, model=model)
    model.model.layers[3].mlp.down_proj.weight.fill_(float("nan"))
    measure(loop, Ask((PrunePlan(),)))
    scores = loop.scores(Ask((PrunePlan(), PrunePlan.parse("3"))))
    assert scores.first[0] == np.inf
    assert np.isnan(scores.first[1])
    outcome = loop.run(Greedy())
    assert all(Unit(3) in plan.removed for plan in chosen_plans(loop, outcome).values())


def test_the_journal_has_every_measurement(make_loop, tmp_path):
    loop = make_loop(2)
    loop.run(Greedy())
    lines = list(read_evaluations(tmp_path / "0"))
    assert len(lines) == 4 + 3
    assert {line.plan for line in lines} == set(loop.recorder.known.plans("search"))


PRICES = Prices((1.0, 0.75, 0.25, 0.0), 2.0)


def ledger(**limits):
    return Ledger(
        Tariff(
            8, PRICES, windows=4, window_tokens=500, rows_per_window=1, own_rows=0.5, heads_per_window=1, own_heads=0.25
        ),
        Limits(**limits),
    )


def test_the_ledger_charges_each_plan_and_window_once():
    book = ledger()
    one, two = PrunePlan.parse("0"), PrunePlan.parse("7")
    book.charge([one], windows=[0, 1])
    assert book.charged.layer_forwards == 7 * (2 + 0.5)  # the own inputs go with the first ask
    assert book.charged.heads == 2 + 0.25
    assert book.charged.evaluations == 0.5
    book.charge([one, two, one])
    assert book.charged.evaluations == 2
    assert book.charged.layer_forwards == 7 * (4 + 0.5) + 7 * (4 + 0.5)
    before = book.charged
    book.charge([two, one])
    assert book.charged == before
    assert book.tariff.total(before) == (before.layer_forwards + 2 * before.heads) * 500 / 1000


def test_the_ledger_charges_a_batch_as_its_trie():
    book = ledger()
    book.charge([PrunePlan.parse("7"), PrunePlan.parse("6")])
    assert book.charged.layer_forwards == (7 + 1) * 4.5


def test_spare_plans_are_kept_back_at_the_price_of_the_dense_model():
    dense = ledger().cost_of([PrunePlan()])
    price = ledger().tariff.total(dense)
    assert ledger(max_cost=2 * price).fits([PrunePlan()], spare=1)
    assert not ledger(max_cost=1.99 * price).fits([PrunePlan()], spare=1)
    assert ledger(max_evaluations=1).fits([PrunePlan()])
    assert not ledger(max_evaluations=1).fits([PrunePlan()], spare=1)


def test_prices_of_a_llama_block():
    with torch.inference_mode():
        replay = open_replay(tiny_llama(), Granularity.SUBLAYER)
        prices = measure_prices(replay, 16)
    attention, ffn, head = 32 * 32 * 2 + 32 * 16 * 2, 32 * 64 * 3, 32 * 97 * 15 / 16  # the last token is not scored
    assert prices.weight == pytest.approx((1, ffn / (attention + ffn), attention / (attention + ffn), 0))
    assert prices.head == pytest.approx(head / (attention + ffn))


def test_what_was_not_charged_is_not_told(make_loop):
    """A journal may know more than a search that is replayed has asked for."""
    loop = make_loop(2)
    loop.recorder.measure("search", [PrunePlan(), PrunePlan.parse("0"), PrunePlan.parse("0-1")])
    loop.ledger.charge([PrunePlan()])
    scores = loop.scores(Ask((PrunePlan(), PrunePlan.parse("0"))))
    assert np.isfinite(scores.first[0])
    assert np.isnan(scores.first[1])
    assert loop.measured_plans() == (PrunePlan(),)


def test_a_strategy_that_will_not_stop_is_left(make_loop):
    class Deaf(Strategy):
        def search(self, space):
            while True:
                with contextlib.suppress(SearchStopped):
                    yield Ask((PrunePlan.of(space.units[:2]),))

    loop = make_loop(2)
    outcome = loop.run(Deaf())
    assert str(chosen_plans(loop, outcome)[2]) == "0-1"
