"""States kept between asks: what stays, what goes, and that nothing changes but the work."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.contracts.trie import path_of
from searcher.evaluation.prefix_cache import PrefixCache


def state(number=0.0):
    return torch.full((8,), float(number))  # 32 bytes


def path(*actions):
    return path_of(actions)


def run_of(whole):
    return {whole[:length]: state(length) for length in range(1, len(whole) + 1)}


def test_the_states_along_a_path_are_found_again():
    kept = PrefixCache(1000)
    whole = path(0, 3, 0)
    kept.offer("here", whole, 1.0, run_of(whole))
    assert all(torch.equal(kept.get("here", whole[:length]), state(length)) for length in (1, 2, 3))
    assert kept.get("there", whole) is None
    assert kept.get("here", path(3)) is None
    assert kept.bytes == 3 * 32


def test_states_of_other_plans_are_not_taken():
    kept = PrefixCache(1000)
    kept.offer("here", path(0, 0), 1.0, run_of(path(0, 0)) | run_of(path(3, 3)))
    assert kept.get("here", path(3, 3)) is None


def test_worse_plans_make_room_for_better_ones_and_old_ones_for_new_ones():
    kept = PrefixCache(4 * 32)
    good, bad, new = path(0, 0), path(1, 1), path(2, 2)
    kept.next_ask()
    kept.offer("here", bad, 9.0, run_of(bad))
    kept.offer("here", good, 1.0, run_of(good))
    assert kept.get("here", bad) is not None
    kept.offer("here", new, float("nan"), run_of(new))  # a broken plan is worth nothing
    assert kept.get("here", new) is None
    assert kept.get("here", good) is not None
    kept.next_ask()
    kept.offer("here", new, 100.0, run_of(new))
    assert kept.get("here", new) is not None
    assert kept.bytes <= 4 * 32


def test_a_prefix_lives_as_long_as_the_best_plan_that_runs_through_it():
    kept = PrefixCache(3 * 32)
    bad, good = path(0, 1), path(0, 2)
    kept.offer("here", bad, 9.0, run_of(bad))
    kept.offer("here", good, 1.0, {good: state()})  # its first block was not run again
    kept.offer("here", path(3, 3), 5.0, run_of(path(3, 3)))
    assert kept.get("here", path(0)) is not None
    assert kept.get("here", good) is not None
    assert kept.get("here", bad) is None


@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=3, max_size=3), st.floats(0, 9)), max_size=20))
@settings(max_examples=100)
def test_the_limit_holds(offers):
    kept = PrefixCache(5 * 32)
    for actions, score in offers:
        kept.offer("here", path(*actions), score, run_of(path(*actions)))
        assert kept.bytes <= 5 * 32
        assert kept.bytes == sum(one.state.nbytes for one in kept._states.values())
