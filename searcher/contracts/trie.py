"""The trie of a batch of plans: what the plans share at the start, up to their first difference, runs once.

A plan's path is what a replay does with each block in order. Paths are walked depth first, so that only the states
at open branchings are alive.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from searcher.contracts.plan import Action, PrunePlan

REMEMBERED = 1 << 14
"""Paths that are kept: those of the largest batches, at a byte a block."""
State = TypeVar("State")
Path = bytes
"""One `Action` per block; a slice from the start is a prefix, which names the state after its last block."""

Step = Callable[[list[State], list[Path]], list[State]]
"""`step(states, prefixes)`: the states after these prefixes, whose last block does the same in all of them, for the
states entering it; changes none of them."""


def path_of(actions: Iterable[Action]) -> Path:
    """Actions as a path, one for each block."""
    return bytes(actions)


@lru_cache(maxsize=REMEMBERED)
def plan_path(plan: PrunePlan, num_blocks: int) -> Path:
    """The path of a plan in a model of so many blocks; asked for again on every station of its way to the journal."""
    return path_of(plan.actions(num_blocks))


def last_step(prefix: Path) -> tuple[int, Action]:
    """The last block of a prefix, and what is done with it."""
    return len(prefix) - 1, Action(prefix[-1])


def depth_first(paths: Sequence[Path]) -> list[int]:
    """The order to walk distinct paths of equal length in: their positions.

    Where paths part, the branch that most of them take comes last, when the state before it is no longer needed: at
    most `log2(len(paths))` states wait at a time.
    """
    ordered: list[int] = []
    waiting = [(0, list(range(len(paths))))]
    while waiting:
        block, members = waiting.pop()
        if len(members) > 1:
            branches: dict[int, list[int]] = {}
            for index in members:
                branches.setdefault(paths[index][block], []).append(index)
            waiting += reversed([(block + 1, branch) for branch in sorted(branches.values(), key=len)])
        else:
            ordered += members
    return ordered


@dataclass(frozen=True)
class Leaves(Generic[State]):
    """Paths that were walked to their end together.

    Attributes:
        positions: of the paths, ascending.
        states: the state at the end of each.
        run: every state that was computed for them, by prefix; nothing unless asked for.
    """

    positions: range
    states: list[State]
    run: Mapping[Path, State]


def one_by_one(paths: Sequence[Path]) -> Callable[[], int]:
    """For :func:`walk`: every path, each alone."""
    counts = iter([1] * len(paths))
    return lambda: next(counts, 0)


def walk(
    paths: Sequence[Path],
    start: State,
    step: Step[State],
    begin: Callable[[], int],
    known: Callable[[Path], State | None] = lambda _: None,
    together: int = 1,
    trail: bool = False,
) -> Iterator[Leaves[State]]:
    """Run the paths in their order from `start`, each shared prefix once.

    Args:
        paths: distinct, of equal length, ordered by :func:`depth_first` or cut out of such an order.
        start: state before block 0.
        step: see `Step`.
        begin: how many paths to run next: `together`, fewer only at the end; 0 ends the walk.
        known: the state after a prefix, if one has been kept from before.
        together: how many paths are run at a time: siblings go through a block in one step.
        trail: hand over the states on the way too.

    At most `1 + log2(len(paths))` states wait, beside those of the paths being run.
    """
    starts = _starts(paths, together)
    uses = Counter(starts)
    waiting: dict[Path, State] = {b"": start}
    done = 0
    while count := begin():
        here = range(done, done + count)
        live = {}
        for position in here:
            prefix, state = _deepest(paths[position], waiting, known)
            live[prefix] = state
        for position in here:
            _used(starts[position], uses, waiting)
        run: dict[Path, State] = {}
        for prefix, state in _run([paths[position] for position in here], live, step):
            if uses[prefix]:
                waiting[prefix] = state
            if trail:
                run[prefix] = state
            del state
        yield Leaves(here, [live[paths[position]] for position in here], run)
        del live, run  # what is finished must not stay alive while the next paths run
        done += count


def _starts(paths: Sequence[Path], together: int) -> list[Path]:
    """For each path, the prefix at which it leaves the last path before those it is run together with."""
    starts = []
    for position, path in enumerate(paths):
        before = position - position % together - 1
        starts.append(b"" if before < 0 else path[: shared(path, paths[before])])
    return starts


def _deepest(path: Path, waiting: Mapping[Path, State], known: Callable[[Path], State | None]) -> tuple[Path, State]:
    """The longest prefix whose state is at hand; the empty one always is."""
    for length in range(len(path), 0, -1):
        prefix = path[:length]
        state = waiting[prefix] if prefix in waiting else known(prefix)
        if state is not None:
            return prefix, state
    return b"", waiting[b""]


def _used(prefix: Path, uses: Counter[Path], waiting: dict[Path, State]) -> None:
    uses[prefix] -= 1
    if prefix and not uses[prefix]:
        waiting.pop(prefix, None)


def _run(paths: list[Path], live: dict[Path, State], step: Step[State]) -> Iterator[tuple[Path, State]]:
    """Take the paths from their live states to their ends, block by block; `live` holds the ends afterwards."""
    begins = {path: max(len(prefix) for prefix in live if path.startswith(prefix)) for path in paths}
    for block in range(min(begins.values()), len(paths[0])):
        passing = dict.fromkeys(path[: block + 1] for path in paths if begins[path] <= block)
        for action in Action:
            children = [prefix for prefix in passing if prefix[block] == action]
            if children:
                live.update(zip(children, step([live[c[:block]] for c in children], children), strict=True))
        for prefix in passing:
            live.pop(prefix[:block], None)
            yield prefix, live[prefix]


def shared(one: Path, other: Path) -> int:
    """How many blocks two paths share from the start."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def layer_forwards(paths: Iterable[Path], weight: Sequence[float]) -> float:
    """Layer-forwards that :func:`walk` spends on these paths, in units of one block over one window.

    Args:
        paths: of equal length; repeats cost nothing.
        weight: what each `Action` costs, by its value; `(1, FFN share, attention share, 0)`.
    """
    total = 0.0
    previous: Path = b""
    for path in sorted(set(paths)):
        total += sum(weight[action] for action in path[shared(path, previous) :])
        previous = path
    return total
