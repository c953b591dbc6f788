import math
from collections import deque
from itertools import combinations, groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.contracts.plan import Action, Granularity, PrunePlan, Unit, all_units, legal_units
from searcher.contracts.trie import depth_first, layer_forwards, one_by_one, path_of, walk

WEIGHT = (1.0, 0.5, 0.5, 0.0)
PATHS = (
    st.integers(1, 9)
    .flatmap(lambda blocks: st.lists(st.binary(min_size=blocks, max_size=blocks), min_size=1, max_size=40, unique=True))
    .map(lambda paths: list(dict.fromkeys(path_of(Action(byte % 4) for byte in path) for path in paths)))
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


def in_order(paths):
    return [paths[position] for position in depth_first(paths)]


def in_bundles(paths, together):
    """For `begin`: so many at a time, the rest at the end."""
    counts = iter([together] * (len(paths) // together) + [len(paths) % together])
    return lambda: next(counts, 0)


@given(PATHS)
@settings(max_examples=200)
def test_depth_first_keeps_shared_prefixes_together(paths):
    ordered = in_order(paths)
    assert sorted(ordered) == sorted(paths)
    for length in range(1, len(paths[0])):
        runs = [prefix for prefix, _ in groupby(path[:length] for path in ordered)]
        assert len(runs) == len(set(runs))


@given(PATHS, st.integers(1, 5), st.data())
@settings(max_examples=300)
def test_every_path_ends_as_it_would_alone_and_shared_prefixes_run_once(paths, together, data):
    paths = in_order(paths)
    first = data.draw(st.integers(0, len(paths) - 1))
    last = data.draw(st.integers(first + 1, len(paths)))
    paths = paths[first:last]  # a job holds a part of the order
    steps = []

    def step(states, prefixes):
        assert len(states) <= together
        assert states == [prefix[:-1] for prefix in prefixes]
        assert len({(len(prefix), prefix[-1]) for prefix in prefixes}) == 1
        steps.extend(prefixes)
        return list(prefixes)

    leaves = list(walk(paths, b"", step, in_bundles(paths, together), together=together))
    assert [position for bundle in leaves for position in bundle.positions] == list(range(len(paths)))
    assert [state for bundle in leaves for state in bundle.states] == paths
    assert len(steps) == len(set(steps))
    assert sum(WEIGHT[prefix[-1]] for prefix in steps) == pytest.approx(layer_forwards(paths, WEIGHT))


@given(PATHS, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_states_known_from_before_are_not_run_again(paths, together, random):
    paths = in_order(paths)
    prefixes = sorted({path[:length] for path in paths for length in range(1, len(path) + 1)})
    known = {prefix: prefix for prefix in prefixes if random.random() < 0.5}
    steps = []

    def step(states, prefixes):
        assert states == [prefix[:-1] for prefix in prefixes]
        steps.extend(prefixes)
        return list(prefixes)

    def looked_up(prefix):  # what is known may also be forgotten on the way
        return known.pop(prefix, None) if random.random() < 0.1 else known.get(prefix)

    given = dict(known)
    leaves = list(walk(paths, b"", step, in_bundles(paths, together), looked_up, together, trail=True))
    assert [state for bundle in leaves for state in bundle.states] == paths
    assert sorted(prefix for bundle in leaves for prefix in bundle.run) == sorted(steps)
    if given == known:
        assert sum(WEIGHT[p[-1]] for p in steps) <= layer_forwards(paths, WEIGHT)
        assert not set(steps) & set(given)


@given(PATHS, st.integers(1, 4))
@settings(max_examples=200)
def test_few_states_wait(paths, together):
    paths = in_order(paths)
    State.alive = State.most = 0
    walking = walk(
        paths,
        State(b""),
        lambda states, prefixes: [State(prefix) for prefix in prefixes],
        in_bundles(paths, together),
        together=together,
    )
    deque(walking, maxlen=0)  # runs it, and keeps nothing
    assert State.alive == 0
    # waiting states and the first, plus those entering a step and those leaving it
    assert State.most <= together * (math.log2(len(paths)) + 1) + 1 + 2 * together


def test_no_paths():
    assert list(walk([], (), lambda s, p: s, one_by_one([]))) == []
    assert depth_first([]) == []
    assert layer_forwards([], WEIGHT) == 0


def greedy_rounds(blocks, removals, keep):
    """Layer-forwards of all rounds of a greedy search, as a trie and without sharing."""
    plan, shared, alone = PrunePlan(), 0.0, 0.0
    for _ in range(removals):
        left = [u for u in legal_units(blocks, Granularity.BLOCK, keep) if u not in plan.removed]
        paths = [path_of(plan.remove(u).actions(blocks)) for u in left]
        shared += layer_forwards(paths, WEIGHT)
        alone += sum(layer_forwards([path], WEIGHT) for path in paths)
        plan = plan.remove(left[len(left) // 2])
    return shared, alone


def test_counts_on_32_blocks():
    assert greedy_rounds(32, 8, PrunePlan()) == (3376, 6312)
    assert greedy_rounds(32, 8, PrunePlan.parse("0,31")) == (3148, 5872)
    pairs = [path_of(PrunePlan.of(pair).actions(32)) for pair in combinations(all_units(32, Granularity.BLOCK), 2)]
    assert layer_forwards(pairs, WEIGHT) == 5455
    assert sum(layer_forwards([path], WEIGHT) for path in pairs) == 14880


def test_sublayers_cost_their_share():
    paths = [path_of(PrunePlan.parse(text).actions(2)) for text in ("0.attn", "0.ffn", "0")]
    assert layer_forwards(paths, (1.0, 0.75, 0.25, 0.0)) == 0.75 + 1 + 0.25 + 1 + 0 + 1
    assert Unit(0) in PrunePlan.parse("0").removed
