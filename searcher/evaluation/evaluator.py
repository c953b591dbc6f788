"""Plans in, measurements out: replays the plans of a job and lets the objectives measure them."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from searcher.architecture.devices import computes_on_cpu
from searcher.contracts.cost import Prices
from searcher.contracts.objective import HEALED, SHORTENED, Objective, Split
from searcher.contracts.plan import Action, PrunePlan
from searcher.contracts.trie import Path, last_step, layer_forwards, plan_path, walk
from searcher.errors import UsageError
from searcher.evaluation.candidate import Batch, Facts, Heads, ReplayedCandidate
from searcher.evaluation.dense_candidate import DenseCandidate
from searcher.evaluation.ends import Ends
from searcher.evaluation.groups import Group, blaming
from searcher.evaluation.job import Job
from searcher.evaluation.prefix_cache import PrefixCache
from searcher.healing.calibration import Meter
from searcher.healing.heal import Healed
from searcher.healing.healer import Healer, HealingStopped
from searcher.replay.batching import in_groups
from searcher.replay.plan_batching import BatchSizes, batch_sizes, in_sizes
from searcher.replay.repair import Repair
from searcher.replay.replay import Replay, repaired
from searcher.runs.measurement import NOTHING, Measurement, Work

Candidates = Iterator[tuple[ReplayedCandidate, Callable[[float], None]]]
"""Plans replayed, each with what to call with its score, so that the states on its way may be kept."""


class Evaluator:
    """Measures plans, one job after another; for use by one thread at a time, under `torch.inference_mode()`.

    Args:
        replay: the model, checked for the granularity of the run.
        objectives: by name, in the order of the run.
        prices: for counting parts of blocks.
        window_tokens: tokens of a text window, the unit in which work is counted.
        kept: states kept between jobs, shared by all evaluators.
        facts: what the objectives may know of the model.
        healer: heals plans before they are measured, if they are.
        final: heals them for the splits of healed plans, if that is not done by `healer`.
    """

    def __init__(
        self,
        replay: Replay,
        objectives: Mapping[str, Objective],
        prices: Prices,
        window_tokens: int,
        kept: PrefixCache,
        facts: Facts,
        healer: Healer | None = None,
        final: Healer | None = None,
    ) -> None:
        self.replay, self.prices, self.window_tokens, self.facts = replay, prices, window_tokens, facts
        self.healer, self.final = healer, final
        self._objectives, self._kept = objectives, kept
        self._unprepared = {name: _copy(name, objective) for name, objective in objectives.items()}
        self._preparing: dict[tuple[Split, str], Work] = {}
        self._sibling_sizes: dict[torch.Size, BatchSizes] = {}
        self._run_forwards = 0.0
        self._apart = self._prepared = NOTHING
        self._num_blocks = replay.num_blocks  # also while the model itself has fewer

    def colleague(self) -> "Evaluator":
        """An evaluator for another thread: the same weights, but modules and objectives of its own."""
        replay = self.replay.sharing_weights()
        healer = self.healer and self.healer.colleague(replay)
        objectives = {name: _copy(name, objective) for name, objective in self._unprepared.items()}
        final = self.final and self.final.colleague(replay)
        other = Evaluator(replay, objectives, self.prices, self.window_tokens, self._kept, self.facts, healer, final)
        other._sibling_sizes = self._sibling_sizes  # tried once for all
        return other

    def run(self, job: Job, going: Callable[[], bool] = lambda: True) -> Iterator[Measurement]:
        """Measure the plans of a job, each measurement as soon as it is there, until it is told to stop.

        Raises:
            UsageError: an objective raised an error or returned something else than a number for each row.
        """
        preparing = self.prepare(job.split, job.group)
        candidates = self._healed(job, going) if job.split in HEALED else self._candidates(job, going)
        for candidate, keep in candidates:
            values = {name: self._value(name, candidate, len(job.rows)) for name in job.group.layout.objectives}
            keep(self._score(values))
            work, apart, prepared = self._take_work(candidate)
            yield Measurement(
                job.split,
                candidate.plan,
                job.group.layout.name,
                job.rows,
                values,
                work.layer_forwards,
                work.heads,
                apart=apart,
                prepared=prepared,
                preparing=NOTHING if candidate.plan.removed else preparing,
            )

    def _take_work(self, candidate: ReplayedCandidate) -> tuple[Work, Work, Work]:
        """What has been run since the last measurement, what of it by the model itself, and what to prepare."""
        healing = Meter()
        for healer in filter(None, (self.healer, self.final)):
            work = healer.take_work()
            healing.count(work.layer_forwards, work.heads)
        replayed = Work(self._run_forwards, candidate.heads * candidate.ids.shape[1] / self.window_tokens)
        apart, prepared = self._apart, self._prepared
        self._run_forwards, self._apart, self._prepared = 0.0, NOTHING, NOTHING
        return replayed + apart + Work(healing.layer_forwards, healing.heads), apart, prepared

    def prepare(self, split: Split, group: Group, ends: Ends | None = None) -> Work:
        """Show the dense model on this group to the objectives that want to see it, once; what that takes.

        Args:
            split: the part of the text.
            group: the token sequences.
            ends: the dense model's states, if they are there already.
        """
        split = "healed-search" if split in SHORTENED else split  # of the same windows
        place = split, group.layout.name
        if place not in self._preparing:
            wanting = self._wanting(group)
            self._preparing[place] = self._show_dense(split, group, wanting, ends) if wanting else NOTHING
        return self._preparing[place]

    def _wanting(self, group: Group) -> dict[str, Objective]:
        """The objectives of a group that want to see the dense model on it."""
        objectives = {name: self._objectives[name] for name in group.layout.objectives}
        return {name: o for name, o in objectives.items() if type(o).prepare is not Objective.prepare}

    def unprepared(self, split: Split, group: Group) -> bool:
        """Whether an objective of this group has yet to see the dense model on it."""
        return (split, group.layout.name) not in self._preparing and bool(self._wanting(group))

    def _show_dense(self, split: Split, group: Group, wanting: Mapping[str, Objective], ends: Ends | None) -> Work:
        """What it takes does not depend on what happens to be kept, in memory or on disk; what is run does."""
        job = Job(split, group, tuple(range(group.layout.rows)), [PrunePlan()], ends)
        cache = self.facts.dense if all(map(computes_on_cpu, self.replay.devices)) else None
        count = partial(self._ran_model, PrunePlan())
        dense = DenseCandidate(self.replay, self.batch(job), partial(self._run_dense, job), cache, count)
        for name, objective in wanting.items():
            with blaming(name, f"to prepare for the {split} split"):
                objective.prepare(dense)
        windows, blocks = group.ids.numel() / self.window_tokens, self.replay.num_blocks if dense.asked else 0
        heads = Work(0.0, dense.heads * group.ids.shape[1] / self.window_tokens)
        saved = dense.saved * group.ids.shape[1] / self.window_tokens
        takes = Work(blocks * windows) + heads + self._apart
        self._prepared += Work(self._run_forwards, heads.heads - saved) + self._apart
        self._run_forwards, self._apart = 0.0, NOTHING
        return takes

    def _run_dense(self, job: Job) -> Heads | None:
        """The dense model's states on a group, and what its head makes of them."""
        found = None
        for candidate, _ in self._candidates(job):
            found = candidate.own_heads
        return found

    def _healed(self, job: Job, going: Callable[[], bool]) -> Candidates:
        """Each plan replayed after a healing of its own: nothing is shared between plans, and nothing kept."""
        healer = self.final or self.healer
        assert healer is not None, "only a run that heals measures healed plans"
        batch = self.batch(job)
        for plan in tuple(job.plans):
            if not (going() and job.begin(1)):
                return
            try:
                healed = healer.healed(plan, going, SHORTENED.get(job.split, 1.0))
            except HealingStopped:
                return
            heads = None
            if job.group.replayed:
                heads = Heads(self.replay, batch.ids, batch.scored, [self._replayed(batch.ids, plan, healed)], (1,))
            repair = partial(getattr, healed, "repair")
            count = partial(self._ran_model, plan)
            yield (
                ReplayedCandidate(self.replay, plan, batch, heads, repair=repair, count=count, healed=repair),
                _keep_nothing,
            )

    def _replayed(self, ids: Tensor, plan: PrunePlan, healed: Healed) -> Tensor:
        """(rows, tokens, hidden size): the states of a healed plan after the last block, NaN if its fit ran away."""
        if healed.diverged:
            return torch.full_like(self.replay.embed(ids), torch.nan, device=self.replay.exit)
        states = []
        with repaired(self.replay, healed.repair):
            for part in in_groups(ids):  # as plans are run that are not healed one by one, so that the numbers compare
                ((_, hidden),) = self.replay.states(part, [plan])
                states.append(hidden)
        forwards = layer_forwards([plan_path(plan, self.replay.num_blocks)], self.prices.weight)
        self._run_forwards += forwards * ids.numel() / self.window_tokens
        return torch.cat(states)

    def _candidates(self, job: Job, going: Callable[[], bool] = lambda: True) -> Candidates:
        """Each plan replayed with the others, shared prefixes once."""
        plans, batch = tuple(job.plans), self.batch(job)
        if not job.group.replayed:
            for plan in plans:
                if not (going() and job.begin(1)):
                    return
                yield self._candidate(plan, batch, None), _keep_nothing
            return
        # screening runs on the search windows: what it has computed is there when they are measured in full
        split = "search" if job.split == "screen" else job.split
        place, sizes = (split, job.group.layout.name, batch.rows), self.sizes(batch.ids)
        paths = [plan_path(plan, self.replay.num_blocks) for plan in plans]

        def begin() -> int:
            return job.begin(sizes[0]) if going() else 0

        walked = (
            job.ends.leaves(paths, begin, batch.ids.device)
            if job.ends
            else walk(
                paths,
                self.replay.embed(batch.ids),
                partial(self.step, sizes),
                begin=begin,
                known=partial(self._kept.get, place),
                together=sizes[0],
                trail=self._kept.limit > 0,
            )
        )
        for leaves in walked:
            here = [paths[position] for position in leaves.positions]
            ends = [self._corrected(state, path) for state, path in zip(leaves.states, here, strict=True)]
            heads = Heads(self.replay, batch.ids, batch.scored, ends, sizes)
            for i, position in enumerate(leaves.positions):
                keep = partial(self._kept.offer, place, paths[position], run=leaves.run)
                yield self._candidate(plans[position], batch, heads, i), keep

    def _candidate(self, plan: PrunePlan, batch: Batch, heads: Heads | None, position: int = 0) -> ReplayedCandidate:
        repair, healed = partial(self._repair, plan), partial(self._repair_to_come, plan)
        count = partial(self._ran_model, plan)
        return ReplayedCandidate(self.replay, plan, batch, heads, position, repair, count, healed)

    def _ran_model(self, plan: PrunePlan, tokens: int, read_out: int) -> None:
        """Count what an objective has run with the model itself."""
        forwards = layer_forwards([plan_path(plan, self._num_blocks)], self.prices.weight)
        self._apart += Work(forwards * tokens / self.window_tokens, read_out / self.window_tokens)

    def _repair(self, plan: PrunePlan) -> Repair:
        """What healing changes in a plan, as far as it is not fitted to the plan as a whole."""
        if self.healer and self.healer.scope == "gap":
            return self.healer.gaps.repair(plan)
        return Repair(after=self.replay.after)

    def _repair_to_come(self, plan: PrunePlan) -> Repair:
        """The same, and where it is fitted to the plan as a whole, the modules it will put in: they count in sizes."""
        healer = self.final or self.healer
        if healer and healer.scope == "plan":
            return Repair(after=healer.replacements(plan))
        return self._repair(plan)

    def batch(self, job: Job) -> Batch:
        """The rows of a job, on the device of the head."""
        group, device = job.group, self.replay.exit
        rows = group.rows(job.rows)
        index = torch.tensor(rows, dtype=torch.int64)
        split = "healed-search" if job.split in SHORTENED else job.split  # what objectives remember is by batch
        ids, scored = group.ids[index].to(device), group.scored[index].to(device)
        return Batch(
            HEALED.get(job.split, job.split),
            f"{split}/{group.layout.name}",
            rows,
            ids,
            scored,
            group.extra,
            self.facts,
        )

    def sizes(self, ids: Tensor) -> BatchSizes:
        """How many plans may run together on these ids; see :func:`searcher.replay.plan_batching.batch_sizes`."""
        if ids.shape not in self._sibling_sizes:
            self._sibling_sizes[ids.shape] = batch_sizes(self.replay, ids)
        sizes = self._sibling_sizes[ids.shape]
        for count in sizes:
            if not self.replay.knows(len(ids) * count, ids.shape[1]):
                self.replay.embed(ids.repeat(count, 1))
        return sizes

    def _corrected(self, state: Tensor, prefix: Path) -> Tensor:
        """The state after a prefix with what healing puts at its end, if a gap ends there."""
        if not (self.healer and self.healer.scope == "gap" and prefix and prefix[-1] != Action.KEEP):
            return state
        correction = self.healer.gaps.correction(prefix)
        return state if correction is None else self.replay.run_replacement(state, correction)

    def step(self, sizes: BatchSizes, states: list[Tensor], prefixes: list[Path]) -> list[Tensor]:
        """The states after a block, as many at a time as the sizes say."""
        block, action = last_step(prefixes[0])
        if action is Action.KEEP:  # where a gap has ended
            states = [self._corrected(state, prefix[:-1]) for state, prefix in zip(states, prefixes, strict=True)]
        if action is Action.GONE:
            return [self.replay.run_block(state, block, action) for state in states]
        after: list[Tensor] = []
        for part in in_sizes(states, sizes):
            self._count(part, action)
            together = self.replay.run_block(part[0] if len(part) == 1 else torch.cat([*part]), block, action)
            # a part of a batch would keep the whole of it alive
            after += [together] if len(part) == 1 else [state.clone() for state in together.chunk(len(part))]
        return after

    def _count(self, states: Sequence[Tensor], action: Action) -> None:
        tokens = sum(state.shape[0] * state.shape[1] for state in states)
        self._run_forwards += self.prices.weight[action] * tokens / self.window_tokens

    def _score(self, values: Mapping[str, tuple[float, ...]]) -> float:
        """The mean of the first objective, lower is better."""
        name, rows = next(iter(values.items()))
        return self._objectives[name].turned(float(np.mean(rows)))

    def _value(self, name: str, candidate: ReplayedCandidate, count: int) -> tuple[float, ...]:
        with blaming(name, f"on plan {candidate.plan}"):
            values = np.asarray(self._objectives[name].measure(candidate), dtype=np.float64)
        if values.shape != (count,):
            raise UsageError(
                f"Objective '{name}' returned shape {values.shape} for plan {candidate.plan}",
                f"`measure` must return one number for each of the {count} rows or items",
            )
        if np.isnan(values).any() and not candidate.broken():
            raise UsageError(
                f"Objective '{name}' returned NaN for plan {candidate.plan}, under which the model is sound",
                "Let it return a number, or infinity for a plan that must not be chosen",
            )
        return tuple(values.tolist())


def _keep_nothing(score: float) -> None:
    """For candidates whose states nobody can use again."""


def _copy(name: str, objective: Objective) -> Objective:
    with blaming(name, "to be copied; each thread measures with a copy of its own"):
        return copy.deepcopy(objective)
