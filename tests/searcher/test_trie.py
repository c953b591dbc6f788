import math
from collections import deque
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.plan import Action, Granularity, PrunePlan, Unit, all_units, legal_units
from searcher.trie import layer_forwards, walk

WEIGHT = (1.0, 0.5, 0.5, 0.0)
PATHS = st.integers(1, 9).flatmap(
    lambda blocks: st.lists(st.tuples(*[st.sampled_from(list(Action))] * blocks), min_size=1, max_size=40, unique=True)
)


class State:
    """A state that knows how it came to be, and how many of its kind are alive."""

    alive = 0
    most = 0

    def __init__(self, path):
        self.path = path
        State.alive += 1
        State.most = max(State.most, State.alive)

    def __del__(self):
        State.alive -= 1


@given(PATHS)
@settings(max_examples=200)
def test_every_path_ends_as_it_would_alone_and_shared_prefixes_run_once(paths):
    steps = []

    def step(state, block, action):
        assert block == len(state)
        steps.append((*state, action))
        return (*state, action)

    ends = dict(walk(paths, (), step))
    assert ends == dict(enumerate(paths))
    assert len(steps) == len(set(steps))
    assert sum(WEIGHT[prefix[-1]] for prefix in steps) == pytest.approx(layer_forwards(paths, WEIGHT))


@given(PATHS)
@settings(max_examples=200)
def test_few_states_wait(paths):
    State.alive = State.most = 0
    walking = walk(paths, State(()), lambda state, _block, action: State((*state.path, action)))
    deque(walking, maxlen=0)  # runs it, and keeps nothing
    assert State.alive == 0
    # waiting states, plus the one entering a step and the one leaving it
    assert State.most <= math.log2(len(paths)) + 1 + 2


def test_no_paths():
    assert list(walk([], (), lambda s, b, a: s)) == []
    assert layer_forwards([], WEIGHT) == 0


def greedy_rounds(blocks, removals, keep):
    """Layer-forwards of all rounds of a greedy search, as a trie and without sharing."""
    plan, shared, alone = PrunePlan(), 0.0, 0.0
    for _ in range(removals):
        left = [u for u in legal_units(blocks, Granularity.BLOCK, keep) if u not in plan.removed]
        paths = [plan.remove(u).actions(blocks) for u in left]
        shared += layer_forwards(paths, WEIGHT)
        alone += sum(layer_forwards([path], WEIGHT) for path in paths)
        plan = plan.remove(left[len(left) // 2])
    return shared, alone


def test_counts_on_32_blocks():
    assert greedy_rounds(32, 8, PrunePlan()) == (3376, 6312)
    assert greedy_rounds(32, 8, PrunePlan.parse("0,31")) == (3148, 5872)
    pairs = [PrunePlan.of(pair).actions(32) for pair in combinations(all_units(32, Granularity.BLOCK), 2)]
    assert layer_forwards(pairs, WEIGHT) == 5455
    assert sum(layer_forwards([path], WEIGHT) for path in pairs) == 14880


def test_sublayers_cost_their_share():
    paths = [PrunePlan.parse(text).actions(2) for text in ("0.attn", "0.ffn", "0")]
    assert layer_forwards(paths, (1.0, 0.75, 0.25, 0.0)) == 0.75 + 1 + 0.25 + 1 + 0 + 1
    assert Unit(0) in PrunePlan.parse("0").removed
