"""Plans in, measurements out: replays plans on groups of token sequences and lets the objectives measure them."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from searcher.cost import Prices
from searcher.errors import UsageError
from searcher.measurement import PLAN_GROUP, WINDOWS_GROUP, GroupLayout, Measurement, Measurements, rows_wanted
from searcher.objective import Objective, Split
from searcher.plan import Action, PrunePlan
from searcher.pruned import pruned
from searcher.replay import Replay

GROUP_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens run together. Fixed by the kind of device, not by free memory, so that a run is repeatable.

With it the memory of a replay is bounded: beside the weights it holds at most 1 + log2(plans) hidden states of a
group, one block's activations, and one slice of float32 logits.
"""


@dataclass(frozen=True, eq=False)
class Group:
    """Token sequences run together.

    Attributes:
        layout: name, number of rows, objectives.
        ids: int64 (rows, tokens), on the model's device.
        scored: bool (rows, tokens - 1), which losses count.
    """

    layout: GroupLayout
    ids: Tensor
    scored: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of a group, as the objectives see them; see :class:`searcher.objective.Candidate`."""

    name: str
    rows: tuple[int, ...]
    ids: Tensor
    scored: Tensor


class ReplayedCandidate:
    """See :class:`searcher.objective.Candidate`, the protocol that objectives are written against."""

    def __init__(self, replay: Replay, plan: PrunePlan, batch: Batch, hidden: Tensor | None) -> None:
        self.plan, self.batch, self.rows, self.config = plan, batch.name, batch.rows, replay.model.config
        self.ids, self.scored = batch.ids, batch.scored
        self.heads = 0
        self._replay, self._hidden = replay, hidden
        self._losses: Tensor | None = None

    def hidden(self) -> Tensor:
        """(rows, tokens, hidden size): hidden states after the last block, before the final norm."""
        if self._hidden is None:
            raise RuntimeError("an objective that reads only the plan has no hidden states")
        return self._hidden

    def losses(self) -> Tensor:
        """float32 (rows, tokens - 1): negative log-likelihood of each next token in nats."""
        if self._losses is None:
            self.heads += len(self.ids)
            self._losses = self._replay.head.losses(self.hidden(), self.ids)
        return self._losses

    def logits(self) -> Iterator[Tensor]:
        """One row at a time: (tokens, vocabulary)."""
        self.heads += len(self.ids)
        return self._replay.head.logits(self.hidden(), self.ids)

    def model(self) -> AbstractContextManager[Any]:
        """The transformers model itself, pruned for as long as a `with` statement lasts."""
        return pruned(self._replay.model, self._replay.architecture, self._replay.outputs, self.plan)


class Evaluator:
    """Measures plans in this process.

    Args:
        replay: the model, checked for the granularity of the run.
        objectives: by name, in the order of the run.
        windows: int64 (windows, tokens) for each split that will be measured.
        tokenizer: the model's, for objectives that bring their own inputs.
        prices: for counting parts of blocks.

    Attributes:
        groups: the groups of each split.
    """

    def __init__(
        self,
        replay: Replay,
        objectives: Mapping[str, Objective],
        windows: Mapping[Split, Tensor],
        tokenizer: Any,
        prices: Prices,
    ) -> None:
        self._replay, self._objectives, self._prices = replay, dict(objectives), prices
        self._window_tokens = next(iter(windows.values())).shape[1]
        self.groups: dict[Split, tuple[Group, ...]] = {
            split: (*self._window_groups(ids), *self._own_groups(split, tokenizer), *self._plan_group())
            for split, ids in windows.items()
        }
        self._prepared: set[tuple[Split, str]] = set()
        self._run_forwards = 0.0

    @property
    def exact(self) -> bool:
        """Whether values are the same to the last bit in every repetition: so on a CPU, not promised elsewhere."""
        return bool(self._replay.model.device.type == "cpu")

    @property
    def layout(self) -> dict[Split, tuple[GroupLayout, ...]]:
        """Names, sizes and objectives of the groups."""
        return {split: tuple(group.layout for group in groups) for split, groups in self.groups.items()}

    def _reading(self, reads: str) -> tuple[str, ...]:
        return tuple(name for name, objective in self._objectives.items() if objective.reads == reads)

    def _window_groups(self, ids: Tensor) -> Iterator[Group]:
        names = self._reading("windows")
        device = self._replay.model.device
        rows = max(1, GROUP_TOKENS.get(device.type, 2048) // ids.shape[1])
        for number, part in enumerate(torch.split(ids.to(device), rows) if names else ()):
            layout = GroupLayout(f"{WINDOWS_GROUP}{number}", len(part), names)
            yield Group(layout, part, torch.ones_like(part[:, 1:], dtype=torch.bool))

    def _own_groups(self, split: Split, tokenizer: Any) -> Iterator[Group]:
        device = self._replay.model.device
        for name in self._reading("inputs"):
            with _blaming(name, f"to bring inputs for the {split} split"):
                batches = self._objectives[name].inputs(tokenizer, split)
            if not batches:
                raise UsageError(f"Objective '{name}' brings no inputs for the {split} split", "Give it more items")
            for number, batch in enumerate(batches):
                layout = GroupLayout(f"{name}:{number}", len(batch.ids), (name,))
                yield Group(layout, batch.ids.to(device), batch.scored.to(device))

    def _plan_group(self) -> Iterator[Group]:
        if names := self._reading("plan"):
            nothing = torch.zeros((1, 0), dtype=torch.int64)
            yield Group(GroupLayout(PLAN_GROUP, 1, names), nothing, nothing.bool())

    def measure(
        self, split: Split, plans: Sequence[PrunePlan], known: Measurements, windows: Sequence[int] | None = None
    ) -> Iterator[Measurement]:
        """Measure what is not known yet of these plans, each measurement as soon as it is there.

        Args:
            split: which part of the text.
            plans: distinct plans.
            known: what has been measured; not changed here.
            windows: numbers of the windows to run; None for all. Own inputs are always run whole.

        Raises:
            UsageError: an objective raised an error or returned something else than a number for each row.
        """
        groups = self.groups[split]
        for group, wanted in zip(groups, rows_wanted((g.layout for g in groups), windows), strict=True):
            todo: dict[tuple[int, ...], list[PrunePlan]] = {}
            for plan in plans:
                if missing := known.missing(split, plan, group.layout.name, wanted):
                    todo.setdefault(missing, []).append(plan)
            for missing, members in todo.items():
                yield from self._measure_group(split, group, missing, members)

    def _prepare(self, split: Split, group: Group) -> None:
        """Show the dense model on this group to the objectives that want to see it, once."""
        if (split, group.layout.name) in self._prepared:
            return
        self._prepared.add((split, group.layout.name))
        objectives = {name: self._objectives[name] for name in group.layout.objectives}
        wanting = {name: o for name, o in objectives.items() if type(o).prepare is not Objective.prepare}
        if not wanting:
            return
        for candidate in self._candidates(split, group, tuple(range(group.layout.rows)), [PrunePlan()]):
            for name, objective in wanting.items():
                with torch.inference_mode(), _blaming(name, f"to prepare for the {split} split"):
                    objective.prepare(candidate)

    def _measure_group(
        self, split: Split, group: Group, rows: tuple[int, ...], plans: list[PrunePlan]
    ) -> Iterator[Measurement]:
        self._prepare(split, group)
        self._run_forwards, started = 0.0, time.perf_counter()
        for candidate in self._candidates(split, group, rows, plans):
            with torch.inference_mode():
                values = {name: self._value(name, candidate) for name in group.layout.objectives}
            scale = candidate.ids.shape[1] / self._window_tokens
            forwards, heads = self._run_forwards, candidate.heads * scale
            seconds = time.perf_counter() - started
            yield Measurement(split, candidate.plan, group.layout.name, rows, values, forwards, heads, seconds)
            self._run_forwards, started = 0.0, time.perf_counter()

    def _candidates(
        self, split: Split, group: Group, rows: tuple[int, ...], plans: list[PrunePlan]
    ) -> Iterator[ReplayedCandidate]:
        index = torch.tensor(rows, device=group.ids.device)
        batch = Batch(f"{split}/{group.layout.name}", rows, group.ids[index], group.scored[index])
        if group.layout.name == PLAN_GROUP:
            yield from (ReplayedCandidate(self._replay, plan, batch, None) for plan in plans)
            return
        states = self._replay.states(batch.ids, plans, self._count)
        while True:
            with torch.inference_mode():  # not across a yield: it would leak into the caller
                found = next(states, None)
            if found is None:
                return
            yield ReplayedCandidate(self._replay, plans[found[0]], batch, found[1])
            del found  # its hidden states

    def _count(self, hidden: Tensor, action: Action) -> None:
        windows = hidden.shape[0] * hidden.shape[1] / self._window_tokens
        self._run_forwards += self._prices.weight[action] * windows

    def _value(self, name: str, candidate: ReplayedCandidate) -> tuple[float, ...]:
        rows = len(candidate.rows)
        with _blaming(name, f"on plan {candidate.plan}"):
            values = np.asarray(self._objectives[name].measure(candidate), dtype=np.float64)
        if values.shape != (rows,):
            raise UsageError(
                f"Objective '{name}' returned shape {values.shape} for plan {candidate.plan}",
                f"`measure` must return one number for each of the {rows} rows",
            )
        return tuple(values.tolist())


@contextlib.contextmanager
def _blaming(name: str, doing: str) -> Iterator[None]:
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
