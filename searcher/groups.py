"""Token sequences that are run together, for every split: the text windows, and what objectives bring themselves."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from searcher.errors import UsageError
from searcher.measurement import PLAN_GROUP, WINDOWS_GROUP, GroupLayout
from searcher.objective import Objective, Split

GROUP_TOKENS = {"cpu": 512, "cuda": 32768}
"""Tokens run together: enough to keep one core, or a GPU, busy. Fixed by the kind of device, not by memory or the
number of cores, so that a run is repeatable: matrix products of another shape round differently."""

SCREENING = "objectives.screening:Screening"
"""The objective that the split `screen` is measured by, and no other split."""


@dataclass(frozen=True, eq=False)
class Group:
    """Token sequences run together.

    Attributes:
        layout: name, number of rows, objectives.
        ids: int64 (rows, tokens), on the CPU.
        scored: bool (rows, tokens - 1), which losses count.
    """

    layout: GroupLayout
    ids: Tensor
    scored: Tensor


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
        device_type: `cpu` or `cuda`.

    Raises:
        UsageError: an objective brings no inputs, or fails to.
    """
    searched = {name: objective for name, objective in objectives.items() if name != SCREENING}
    groups: Groups = {}
    for split, ids in windows.items():
        if split == "screen":
            groups[split] = tuple(_window_groups(ids, (SCREENING,), device_type))
        else:
            groups[split] = (
                *_window_groups(ids, _reading(searched, "windows"), device_type),
                *_own_groups(split, searched, tokenizer),
                *_plan_group(_reading(searched, "plan")),
            )
    return groups


def _reading(objectives: Mapping[str, Objective], reads: str) -> tuple[str, ...]:
    return tuple(name for name, objective in objectives.items() if objective.reads == reads)


def _window_groups(ids: Tensor, names: tuple[str, ...], device_type: str) -> Iterator[Group]:
    rows = max(1, GROUP_TOKENS.get(device_type, GROUP_TOKENS["cpu"]) // ids.shape[1])
    for number, part in enumerate(torch.split(ids, rows) if names else ()):
        layout = GroupLayout(f"{WINDOWS_GROUP}{number}", len(part), names)
        yield Group(layout, part, torch.ones_like(part[:, 1:], dtype=torch.bool))


def _own_groups(split: Split, objectives: Mapping[str, Objective], tokenizer: Any) -> Iterator[Group]:
    for name in _reading(objectives, "inputs"):
        with blaming(name, f"to bring inputs for the {split} split"):
            batches = objectives[name].inputs(tokenizer, split)
        if not batches:
            raise UsageError(f"Objective '{name}' brings no inputs for the {split} split", "Give it more items")
        for number, batch in enumerate(batches):
            yield Group(GroupLayout(f"{name}:{number}", len(batch.ids), (name,)), batch.ids.cpu(), batch.scored.cpu())


def _plan_group(names: tuple[str, ...]) -> Iterator[Group]:
    if names:
        nothing = torch.zeros((1, 0), dtype=torch.int64)
        yield Group(GroupLayout(PLAN_GROUP, 1, names), nothing, nothing.bool())


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
