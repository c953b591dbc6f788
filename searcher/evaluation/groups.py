"""Token sequences that are run together, for every split: the text windows, and what objectives bring themselves."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from searcher.contracts.objective import HEALED, Objective, Split, TokenBatch
from searcher.errors import UsageError
from searcher.replay.batching import rows_together
from searcher.runs.layout import PLAN_GROUP, WINDOWS_GROUP, GroupKind, GroupLayout

SCREENING = "objectives.screening:Screening"
"""The objective that the split `screen` is measured by, and no other split."""


@dataclass(frozen=True, eq=False)
class Group:
    """Token sequences run together.

    Attributes:
        layout: name, how many numbers are measured on it, objectives.
        ids: int64 (rows, tokens), on the CPU; no rows where only the plan is read.
        scored: bool (rows, tokens - 1), which losses count.
        extra: what an objective has put into its own batch.
    """

    layout: GroupLayout
    ids: Tensor
    scored: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def replayed(self) -> bool:
        """Whether there is anything to run."""
        return self.ids.numel() > 0

    def rows(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """The sequences to run for these numbers: those of windows, but own inputs are run all together."""
        return wanted if self.layout.kind is GroupKind.WINDOWS else tuple(range(len(self.ids)))


Groups = dict[Split, tuple[Group, ...]]
"""The groups of each split, in order."""


def make_groups(
    windows: Mapping[Split, Tensor], objectives: Mapping[str, Objective], tokenizer: Any, device_type: str
) -> Groups:
    """Cut windows and the objectives' own inputs into groups.

    Args:
        windows: int64 (windows, tokens) for each split that will be measured.
        objectives: by name, in the order of the run.
        tokenizer: the model's, for objectives that bring their own inputs.
        device_type: a kind of device such as `cpu` or `cuda`.

    Raises:
        UsageError: an objective brings no inputs, or fails to.
    """
    searched = {name: objective for name, objective in objectives.items() if name != SCREENING}
    groups: Groups = {}
    for split, ids in windows.items():
        rows = rows_together(ids.shape[1], device_type)
        if split == "screen":
            groups[split] = tuple(_window_groups(ids, (SCREENING,), rows))
        else:
            part = HEALED.get(split, split)
            groups[split] = (
                # a plan that is healed is healed once for all windows
                *_window_groups(ids, _reading(searched, "windows"), len(ids) if split in HEALED else rows),
                *_own_groups(part, searched, tokenizer),
                *_plan_groups(part, searched),
            )
    return groups


def _reading(objectives: Mapping[str, Objective], reads: str) -> tuple[str, ...]:
    return tuple(name for name, objective in objectives.items() if objective.reads == reads)


def _window_groups(ids: Tensor, names: tuple[str, ...], rows: int) -> Iterator[Group]:
    for number, part in enumerate(torch.split(ids, rows) if names else ()):
        layout = GroupLayout(f"{WINDOWS_GROUP}{number}", len(part), names)
        yield Group(layout, part, torch.ones_like(part[:, 1:], dtype=torch.bool))


def _own_groups(split: Split, objectives: Mapping[str, Objective], tokenizer: Any) -> Iterator[Group]:
    """Those of the objectives that bring their own inputs; who brings the same ones shares them."""
    sharing: list[tuple[list[str], list[TokenBatch]]] = []
    for name in _reading(objectives, "inputs"):
        with blaming(name, f"to bring inputs for the {split} split"):
            batches = list(objectives[name].inputs(tokenizer, split))
        if not batches:
            raise UsageError(f"Objective '{name}' brings no inputs for the {split} split", "Give it more items")
        names = next((names for names, others in sharing if _same_batches(batches, others)), None)
        if names is None:
            sharing.append(([name], batches))
        else:
            names.append(name)
    for names, batches in sharing:
        for number, batch in enumerate(batches):
            layout = GroupLayout(f"{names[0]}:{number}", batch.items or len(batch.ids), tuple(names))
            yield Group(layout, batch.ids.cpu(), batch.scored.cpu(), batch.extra)


def _same_batches(some: Sequence[TokenBatch], others: Sequence[TokenBatch]) -> bool:
    def tensors(batch: TokenBatch) -> dict[str, Tensor]:
        return {"ids": batch.ids, "scored": batch.scored} | {f"extra {name}": t for name, t in batch.extra.items()}

    def same(one: TokenBatch, other: TokenBatch) -> bool:
        here, there = tensors(one), tensors(other)
        equal = (torch.equal(tensor, there[name]) for name, tensor in here.items())
        return one.items == other.items and here.keys() == there.keys() and all(equal)

    return len(some) == len(others) and all(map(same, some, others))


def _plan_groups(split: Split, objectives: Mapping[str, Objective]) -> Iterator[Group]:
    """Of the objectives that read the plan: those of one number together, each of the others by itself."""
    nothing = torch.zeros((0, 1), dtype=torch.int64)
    single: list[str] = []
    for name in _reading(objectives, "plan"):
        with blaming(name, f"to say how many numbers it gives for the {split} split"):
            numbers = objectives[name].numbers(split)
        if numbers == 1:
            single.append(name)
        else:
            yield Group(GroupLayout(f"{PLAN_GROUP}:{name}", numbers, (name,)), nothing, nothing[:, 1:].bool())
    if single:
        yield Group(GroupLayout(PLAN_GROUP, 1, tuple(single)), nothing, nothing[:, 1:].bool())


@contextlib.contextmanager
def blaming(name: str, doing: str) -> Iterator[None]:
    """What an objective raises stops the run and names the objective; errors meant for the user pass."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # the user's own objective may raise anything
        raise UsageError(
            f"Objective '{name}' failed {doing}: {type(error).__name__}: {error}",
            "What was measured before is kept for the same command; an objective that was changed starts a new run",
        ) from error
