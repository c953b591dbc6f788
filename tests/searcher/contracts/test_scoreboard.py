import contextlib
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searcher.contracts.games import additive_game, make_space, play
from searcher.contracts.plan import Granularity, PrunePlan, Unit
from searcher.contracts.scoreboard import Scoreboard, largest
from searcher.contracts.strategy import Outcome, Scores, SearchStopped, Strategy
from strategies.greedy import Greedy


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_largest_count_that_fits(most, limit):
    assert largest(lambda count: count <= limit, most) == min(most, limit)


@dataclasses.dataclass(frozen=True)
class Runs(Strategy):
    """What a test wants to do with a board."""

    body: object

    def search(self, space):
        board = Scoreboard(space)
        yield from self.body(board)
        return Outcome((), {"board": board})


def board_after(body, space, game=None, **limits):
    return play(Runs(body), space, game or additive_game(), **limits)


def test_asks_only_for_what_is_new():
    plans = [PrunePlan.parse(text) for text in ("0", "1", "0-1")]

    def body(board):
        yield from board.measure(plans[:2])
        yield from board.measure([*plans, plans[0]])

    assert [ask.plans for ask in board_after(body, make_space(4, 2)).asks] == [tuple(plans[:2]), (plans[2],)]


@pytest.mark.parametrize("limit", [1, 2, 5, 9, 10])
def test_uses_a_limit_up_and_keeps_what_it_has_learnt(limit):
    space = make_space(5, 2)

    class Greedily(Strategy):
        """Ask for all plans at once."""

        def search(self, space):
            board = Scoreboard(space)
            with contextlib.suppress(SearchStopped):
                yield from board.measure(space.plans(2))
            return board.outcome()

    played = play(Greedily(), space, additive_game(), max_evaluations=limit)
    assert len(played.plans) == limit
    assert set(played.outcome.plans) == set(played.plans)
    assert played.outcome.plans[0] == min(played.plans, key=additive_game())


def test_a_partial_plan_is_completed_by_an_additive_fit():
    board = Scoreboard(make_space(6, 3))
    game = additive_game(seed=3)
    singles = [PrunePlan.of([unit]) for unit in board.space.units]
    scores = np.array([[game(plan)] for plan in singles])
    board.learn(Scores(tuple(singles), scores, np.full((6, 1, 4), np.nan)))
    cheapest = sorted(board.space.units, key=lambda unit: game(PrunePlan.of([unit])))
    assert board.unit_order() == tuple(cheapest)
    assert board.completed() == PrunePlan.of(cheapest[:3])


def test_a_unit_that_was_never_removed_costs_as_much_as_the_dearest():
    board = Scoreboard(make_space(3, 1))
    board.scores |= {PrunePlan(): 1.0, PrunePlan.of([Unit(0)]): 2.0, PrunePlan.of([Unit(1)]): np.inf}
    costs = board.unit_costs()
    assert costs[Unit(2)] == costs[Unit(0)] > 0.9


def test_following_another_strategy_learns_its_scores_and_what_it_stood_for():
    space = make_space(8, 3)

    def whole(board):
        outcome = yield from board.follow(Greedy().search(space))
        assert outcome.plans[0] == board.ranked()[0]

    board_after(whole, space)

    class Stopped(Strategy):
        """Greedy, stopped."""

        def search(self, space):
            board = Scoreboard(space)
            with contextlib.suppress(SearchStopped):
                yield from board.follow(Greedy().search(space))
            return board.outcome()

    played = play(Stopped(), space, additive_game(), max_evaluations=10)
    assert len(played.plans) == 8
    assert played.outcome.plans[0].size(Granularity.BLOCK) == 3
