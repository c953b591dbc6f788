"""Corrections where gaps of a plan end: fitted to the dense model's hidden states, shared by plans that start alike."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from cachetools import LRUCache
from torch import Tensor, nn

from searcher.contracts.plan import Action, PrunePlan
from searcher.contracts.trie import Path, last_step, plan_path
from searcher.healing.calibration import PADDING, CalibrationSet
from searcher.healing.moments import TINY
from searcher.replay.batching import in_groups
from searcher.replay.repair import Place, Repair, ReplacementModule

MATRICES = 0.5
"""Share of the memory that fitted matrices may take; each saves the fit that it came from, and is small."""

ENTRY = 100
"""Bytes of an entry with nothing in it: that no map helped there."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows where a gap ends.

    Attributes:
        given: (rows, tokens, hidden size) of the pruned model, corrected before this gap.
        wanted: the same of the dense model.
        real: bool (rows, tokens), False for padding.
    """

    given: Tensor
    wanted: Tensor
    real: Tensor

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """(tokens, hidden size) of both, without padding."""
        return self.given[self.real], self.wanted[self.real]


@dataclass(frozen=True, eq=False)
class GapEnd:
    """What a fit is given.

    Attributes:
        block: the last one of the gap.
        place: where states after it are.
        batches: the batches of a text, by its name; each call runs what is not kept of them.
    """

    block: int
    place: torch.device
    batches: Callable[[str], Iterator[Batch]]


Fit = Callable[[GapEnd], nn.Module | None]
"""What should stand where a gap ends; None for nothing."""
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", Tensor, ReplacementModule | None)


def _bounded(limit: int) -> "LRUCache[Key, Value]":
    """What was used last, within so many bytes."""
    return LRUCache(limit, getsizeof=_bytes)


def _offer(cache: "LRUCache[Key, Value]", key: Key, value: Value) -> None:
    """Keep this in place of what was not used for longest, if it fits at all."""
    if key not in cache and _bytes(value) <= cache.maxsize:
        cache[key] = value


class GapFits:
    """The corrections of plans, each depending only on what the plan does up to where the gap ends.

    A gap is a run of consecutive blocks of which a plan removes something. Where it ends, a module is fitted that takes
    the hidden states of the pruned model, corrected so far, nearer to those of the dense model.

    Plans that share a prefix share its corrections and the hidden states after it, as far as these are kept; those of
    the dense model are the states after a prefix that removes nothing. What is kept changes no bit of the result.

    For use by one thread at a time, under `torch.inference_mode()`.

    Args:
        calibration: whose model and windows.
        fit: makes what stands at the end of a gap.
        texts: int64 (windows, tokens) by name, for the fit to ask for.
        limit: bytes for hidden states and matrices; with 0 everything is run again each time.
    """

    def __init__(self, calibration: CalibrationSet, fit: Fit, texts: Mapping[str, Tensor], limit: int) -> None:
        self._calibration, self._make, self._texts = calibration, fit, texts
        width = int(calibration.replay.model.config.get_text_config(decoder=True).hidden_size)
        self._corrections: LRUCache[Path, ReplacementModule | None] = _bounded(int(limit * MATRICES))
        self._states: LRUCache[tuple[str, int, Path], Tensor] = _bounded(limit - int(limit * MATRICES))
        whole = sum(ids.numel() for ids in self._texts.values()) * width * calibration.replay.model.dtype.itemsize
        self._depths = self._states.maxsize // 2 // whole  # so many states of a path can be kept, and of the dense one

    @property
    def bytes(self) -> int:
        """Kept now."""
        return int(self._states.currsize + self._corrections.currsize)

    def correction(self, prefix: Path) -> ReplacementModule | None:
        """What stands at the end of a prefix whose last block ends a gap; None where nothing would be better."""
        return self._corrections[prefix] if prefix in self._corrections else self._resolve(prefix)[len(prefix)]

    def repair(self, plan: PrunePlan) -> Repair:
        """All corrections of a plan."""
        path = plan_path(plan, self._calibration.replay.num_blocks)
        after: dict[Place, ReplacementModule] = {}
        for end, correction in self._resolve(path).items():
            if correction is not None:
                after[last_step(path[:end])] = correction
        return Repair(after=after)

    def _resolve(self, path: Path) -> dict[int, ReplacementModule | None]:
        """The corrections at the ends of a path's gaps, by the length of the prefix."""
        found: dict[int, ReplacementModule | None] = {}
        for end in gap_ends(path):
            prefix = path[:end]
            if prefix in self._corrections:
                found[end] = self._corrections[prefix]
                continue
            found[end] = correction = self._fit(prefix, found)
            _offer(self._corrections, prefix, correction)
        return found

    def _fit(self, prefix: Path, earlier: dict[int, ReplacementModule | None]) -> ReplacementModule | None:
        """The correction at the end of a prefix, given those before."""
        end = len(prefix) - 1
        place = self._calibration.replay.places[end]
        found = self._make(GapEnd(end, place, lambda text: self._batches(text, prefix, earlier)))
        return None if found is None else ReplacementModule(found)

    def _batches(self, text: str, prefix: Path, corrections: dict[int, ReplacementModule | None]) -> Iterator[Batch]:
        """The states after a prefix and those of the dense model after the same block."""
        dense = bytes(len(prefix))
        for number, ids in enumerate(in_groups(self._texts[text])):
            wanted = self._state(text, number, ids, dense, {})
            given, real = self._state(text, number, ids, prefix, corrections), (ids != PADDING).to(wanted.device)
            yield Batch(given.to(wanted.device), wanted, real)

    def _state(
        self, text: str, number: int, ids: Tensor, prefix: Path, corrections: dict[int, ReplacementModule | None]
    ) -> Tensor:
        """(rows, tokens, hidden size): a batch's states after a prefix, before what corrects them there."""
        calibration = self._calibration
        prefix = prefix.rstrip(bytes([Action.GONE]))  # blocks that are gone leave the states as they are
        start, hidden = self._deepest(text, number, prefix)
        if hidden is None:
            hidden = calibration.replay.embed(ids.clamp(min=0))
        for end in range(start + 1, len(prefix) + 1):
            block, action = last_step(prefix[:end])
            if action is Action.KEEP and (correction := corrections.get(end - 1)) is not None:
                hidden = calibration.replay.run_replacement(hidden, correction)
            hidden = calibration.run_block(hidden, block, action)
            if end > len(prefix) - self._depths:
                _offer(self._states, (text, number, prefix[:end]), hidden)
        return hidden

    def _deepest(self, text: str, number: int, prefix: Path) -> tuple[int, Tensor | None]:
        """The longest prefix of this one whose states are kept: its length, and they.

        Those on the way there are as good as used: more plans begin like them.
        """
        found: tuple[int, Tensor | None] = (0, None)
        for length in range(len(prefix), 0, -1):
            key = (text, number, prefix[:length])
            if key in self._states:
                state = self._states[key]
                if found[1] is None:
                    found = length, state
        return found


def _bytes(kept: Tensor | ReplacementModule | None) -> int:
    if isinstance(kept, Tensor):
        return kept.nbytes
    return ENTRY + (0 if kept is None else sum(parameter.nbytes for parameter in kept.module.parameters()))


def gap_ends(path: Path) -> Iterator[int]:
    """The lengths of the prefixes whose last block ends a gap: the next one is whole, or there is none."""
    for end in range(1, len(path) + 1):
        if path[end - 1] != Action.KEEP and (end == len(path) or path[end] == Action.KEEP):
            yield end


def choose(choices: Iterator[tuple[Sequence[Tensor], Tensor]]) -> int:
    """Which choice comes nearest to the states wanted, by the mean of :func:`weighted_errors`; the first of equals.

    Args:
        choices: in batches, the (tokens, hidden size) states that each choice gives, and those wanted.
    """
    sums = [
        torch.stack([weighted_errors(states, wanted).double().sum() for states in given]) for given, wanted in choices
    ]
    return int(torch.stack(sums).sum(dim=0).nan_to_num(nan=torch.inf).argmin())


def weighted_errors(states: Tensor, wanted: Tensor) -> Tensor:
    """float32 (tokens,): squared distances divided by the norm of what is wanted; see :meth:`Moments.add`."""
    norms: Tensor = wanted.float().norm(dim=-1).clamp(min=TINY)
    return (states.float() - wanted.float()).square().sum(dim=-1) / norms
