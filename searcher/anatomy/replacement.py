"""What becomes of the loss when block i is replaced by a copy of block j, for all i and j."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searcher.anatomy.replacement_map import Misfits, ReplacementMap
from searcher.anatomy.work import Done, at_work, ignore
from searcher.architecture.blocks import alike
from searcher.contracts.cost import Cost
from searcher.contracts.plan import Action
from searcher.errors import first_line
from searcher.replay.batching import in_groups
from searcher.replay.repair import ReplacementModule
from searcher.replay.replay import Replay

LEAK = 2e-2
"""How much of the largest state the first token may move by rounding when all others change; attention to them moves it
by far more."""


def cost(num_blocks: int, windows: int, places: Sequence[int] | None = None) -> Cost:
    """What measuring these rows of the map costs: L(L - i) blocks for row i, and the dense model up to the last.

    Args:
        num_blocks: L.
        windows: how many.
        places: the rows to measure; None for all.
    """
    wanted = range(num_blocks) if places is None else places
    forwards = max(wanted, default=0) + sum(num_blocks * (num_blocks - place) for place in wanted)
    return Cost(layer_forwards=float(windows * forwards), heads=float(windows * num_blocks * len(wanted)))


def find_misfits(replay: Replay, ids: Tensor) -> Misfits:
    """Try every kind of block in the place of every other: some cannot run there, or see tokens to come.

    In models that mix kinds of attention a place may be given no mask, or another one, than a block of another kind
    needs.

    Args:
        replay: the model.
        ids: int64 (windows, tokens); the first is used.
    """
    kinds = alike(replay.architecture, replay.model.config.get_text_config(decoder=True))
    misfits: Misfits = {}
    with at_work():
        hidden = replay.embed(ids[:1].to(replay.model.device))
        others = torch.cat([hidden[:, :1], -hidden[:, 1:]], dim=1)  # the same first token, all after it changed
        for place, block in product(kinds, kinds):
            if reason := _reason_against(replay, place, block, hidden, others):
                misfits |= dict.fromkeys(product(kinds[place], kinds[block]), reason)
    return misfits


def measure_rows(
    replay: Replay,
    ids: Tensor,
    misfits: Misfits,
    places: Sequence[int] | None = None,
    done: Done = ignore,
    cores: int | None = None,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Measure the map row by row, so that each can be stored and be left out another time.

    In place i block j is given the arguments of block i, such as the mask and the rotary embeddings: they belong to the
    place. What a block's own modules decide, such as whether to rotate, goes with the block. No cache is used: in one,
    a copy that keeps its number would read the keys of the block that it is a copy of.

    Args:
        replay: the model.
        ids: int64 (windows, tokens).
        misfits: the cells not to run.
        places: the rows to measure; None for all.
        done: told how far it is.
        cores: how many cells to run at a time on a CPU, each on one core, so that the numbers do not depend on it; by
            default one for each thread that torch uses.

    Yields:
        `(i, losses)`, i ascending, float64 (blocks, windows).
    """
    blocks = replay.num_blocks
    wanted = sorted(range(blocks) if places is None else set(places))
    groups = in_groups(ids.to(replay.model.device))
    team = _Team(replay, groups, (cores or torch.get_num_threads()) if replay.model.device.type == "cpu" else 1)
    unit = 1 / max(1, sum(blocks - place for place in wanted))
    with at_work():
        states = [replay.embed(group) for group in groups]  # entering the place, in the dense model
    for place in range(max(wanted, default=-1) + 1):
        if place:
            with at_work():
                states = [replay.run_block(state, place - 1, Action.KEEP) for state in states]
        if place in wanted:
            row = np.full((blocks, len(ids)), np.nan)
            for block, losses in team.cells(states, place, [b for b in range(blocks) if (place, b) not in misfits]):
                row[block] = losses
                done(unit * (blocks - place) / blocks)
            done(unit * (blocks - place) / blocks * sum((place, block) in misfits for block in range(blocks)))
            yield place, row


def assemble(rows: Mapping[int, NDArray[np.float64]], misfits: Misfits) -> ReplacementMap:
    """The map of all its rows; see :func:`measure_rows`."""
    return ReplacementMap(np.stack([rows[place] for place in range(len(rows))]), misfits)


def run_copy(replay: Replay, hidden: Tensor, place: int, block: int) -> Tensor:
    """Hidden states after a place in which another block stands; (rows, tokens, hidden size) to the same."""
    return replay.run_replacement(hidden, ReplacementModule(replay.architecture.blocks[block], like=place))


class _Team:
    """Replays of one model, one for each thread.

    Args:
        replay: the first.
        groups: the windows.
        count: how many.
    """

    def __init__(self, replay: Replay, groups: Sequence[Tensor], count: int) -> None:
        self._groups, self._count = groups, count
        self._idle: SimpleQueue[Replay] = SimpleQueue()
        for member in (replay, *(replay.sharing_weights() for _ in range(count - 1))):
            with at_work():
                for group in {group.shape: group for group in groups}.values():
                    member.embed(group)  # records the arguments of the blocks for this shape
            self._idle.put(member)

    def cells(
        self, states: Sequence[Tensor], place: int, blocks: Sequence[int]
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """float64 (windows,) losses with each of these blocks in a place, from the dense states entering it."""

        def losses(block: int) -> NDArray[np.float64]:
            member = self._idle.get()
            try:
                with at_work():
                    return _losses(member, self._groups, states, place, block)
            finally:
                self._idle.put(member)

        pool = ThreadPoolExecutor(self._count)
        try:
            yield from zip(blocks, pool.map(losses, blocks), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _losses(
    replay: Replay, groups: Sequence[Tensor], states: Sequence[Tensor], place: int, block: int
) -> NDArray[np.float64]:
    """float64 (windows,)."""
    losses = []
    for ids, entering in zip(groups, states, strict=True):
        hidden = run_copy(replay, entering, place, block)
        for later in range(place + 1, replay.num_blocks):
            hidden = replay.run_block(hidden, later, Action.KEEP)
        losses.append(replay.head.losses(hidden, ids).double().mean(dim=1).cpu().numpy())
    found: NDArray[np.float64] = np.concatenate(losses)
    return found


def _reason_against(replay: Replay, place: int, block: int, hidden: Tensor, others: Tensor) -> str | None:
    try:
        one, other = (run_copy(replay, states, place, block) for states in (hidden, others))
    except (RuntimeError, TypeError, AttributeError, LookupError) as error:
        return f"it cannot run there ({type(error).__name__}: {first_line(error)})"
    if one.shape != hidden.shape:
        return f"it returns states of shape {tuple(one.shape)}, not {tuple(hidden.shape)}"
    moved = (one[:, 0].float() - other[:, 0].float()).abs().max()
    return "it sees later tokens there" if moved > LEAK * one.float().abs().max() else None
