"""The trie of a batch of plans: what the plans share at the start, up to their first difference, runs once.

A plan's path is what a replay does with each block in order. Paths are walked depth first, so that only the states
at open branchings are alive.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from searcher.plan import Action

State = TypeVar("State")
Path = tuple[Action, ...]


def walk(
    paths: Sequence[Path], start: State, step: Callable[[State, int, Action], State]
) -> Iterator[tuple[int, State]]:
    """Run every path from `start`, each shared prefix once, and yield `(index of the path, its last state)`.

    Args:
        paths: distinct, of equal length.
        start: state before block 0.
        step: `step(state, block, action)` gives the state after the block; it must not change `state`.

    Where paths part, the branch that most of them take is walked last, when the state before it is no longer
    needed: at most `1 + log2(len(paths))` states wait at a time.
    """
    waiting = [(start, 0, list(range(len(paths))))] if paths else []
    while waiting:
        state, block, members = waiting.pop()
        while block < len(paths[members[0]]):
            branches = _branches(paths, members, block)
            *fewer, (action, members) = sorted(branches.items(), key=lambda branch: len(branch[1]))
            if fewer:  # all but the lightest branch wait, with this state, the heaviest at the bottom
                waiting.append((state, block, members))
                waiting.extend((state, block, light) for _, light in reversed(fewer[1:]))
                action, members = fewer[0]
            state = step(state, block, action)
            block += 1
        yield members[0], state
        del state  # a finished state must not stay alive while the next path runs


def _branches(paths: Sequence[Path], members: Iterable[int], block: int) -> dict[Action, list[int]]:
    branches: dict[Action, list[int]] = {}
    for index in members:
        branches.setdefault(paths[index][block], []).append(index)
    return branches


def layer_forwards(paths: Iterable[Path], weight: Sequence[float]) -> float:
    """Layer-forwards that :func:`walk` spends on these paths, in units of one block over one window.

    Args:
        paths: of equal length; repeats cost nothing.
        weight: what each `Action` costs, by its value; `(1, FFN share, attention share, 0)`.
    """
    total = 0.0
    previous: Path = ()
    for path in sorted(set(paths)):
        shared = next((i for i, (a, b) in enumerate(zip(path, previous, strict=False)) if a != b), len(previous))
        total += sum(weight[action] for action in path[shared:])
        previous = path
    return total
