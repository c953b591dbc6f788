"""Measuring plans on a model whose weights come from the disk: all plans of an ask pass a block before the next."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from searcher.contracts.objective import HEALED, Split
from searcher.contracts.plan import PrunePlan
from searcher.evaluation.evaluator import Evaluator
from searcher.evaluation.executor import Executor, one_core
from searcher.evaluation.groups import Group, Groups
from searcher.evaluation.job import Job
from searcher.evaluation.prefix_cache import PrefixCache
from searcher.evaluation.streaming_room import StreamingRoom
from searcher.evaluation.sweep import Sweep
from searcher.loading.weight_store import WeightStore
from searcher.runs.measurement import Measurement, timed

TELL = 30.0
"""Seconds after which it is said how far a sweep is."""


class StreamedExecutor(Executor):
    """See :class:`searcher.evaluation.executor.Executor`; the same values, with other things in memory.

    Args:
        evaluator: the first of the executor, from which the others are made.
        groups: the token sequences of each split.
        store: the model's weights.
        room: what fits.
        say: told how far a long sweep is.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        groups: Groups,
        store: WeightStore,
        room: StreamingRoom,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(evaluator, groups, PrefixCache(0), room.evaluators)
        while len(self._evaluators) < room.evaluators:
            self._evaluators.append(evaluator.colleague())
        self._room, self._say, self._said = room, say, time.monotonic()
        self._sweep = Sweep(self._evaluators, store)
        store.keep(room.staying)

    def run(self, jobs: Sequence[Job], deadline: float | None = None) -> Iterator[Measurement]:
        """Do these jobs, as many together as there is room for the states of."""
        swept = [job for job in jobs if job.group.replayed and job.split not in HEALED]
        yield from super().run([job for job in jobs if job not in swept], deadline)
        yield from timed(self._run_swept(swept, deadline))

    def _run_swept(self, jobs: Sequence[Job], deadline: float | None) -> Iterator[Measurement]:
        def going() -> bool:
            return deadline is None or time.monotonic() < deadline

        self._prepare(jobs)
        for part in self._parts(jobs):
            with one_core(), torch.inference_mode():
                ends = self._sweep.ends(part, going, at=partial(self._tell, part))
            if ends is None:
                return
            there = [Job(j.split, j.group, j.rows, j.plans, end) for j, end in zip(part, ends, strict=True)]
            yield from super().run(there, deadline)

    def _prepare(self, jobs: Sequence[Job]) -> None:
        """Take the dense model through its blocks for all objectives that want to see it on any of these groups."""
        groups: dict[tuple[Split, str], tuple[Split, Group]] = {
            (job.split, job.group.layout.name): (job.split, job.group)
            for job in jobs
            if self.evaluator.unprepared(job.split, job.group)
        }
        dense = [Job(split, g, tuple(range(g.layout.rows)), [PrunePlan()]) for split, g in groups.values()]
        for part in self._parts(dense):
            with one_core(), torch.inference_mode():
                ends = self._sweep.ends(part, going=lambda: True, keep=True, at=partial(self._tell, part))
                for job, end in zip(part, ends or [], strict=True):
                    for evaluator in self._evaluators:
                        evaluator.prepare(job.split, job.group, end)

    def _tell(self, part: Sequence[Job], block: int) -> None:
        """Now and then, for values come at the end of a sweep only."""
        if time.monotonic() - self._said >= TELL:
            plans = len({plan for job in part for plan in job.plans})
            self._say(f"Block {block} of {self.evaluator.replay.num_blocks}, {plans} plans together")
            self._said = time.monotonic()

    def _parts(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """The jobs in their order, as many at a time as there is room for; one that is too large in pieces."""
        part, left = list[Job](), self._room.states
        for job in jobs:
            state, waiting = self._state_bytes(job), list(job.plans)
            while waiting:
                if left < state and part:
                    yield part
                    part, left = [], self._room.states
                fitting = max(1, left // state)
                part.append(Job(job.split, job.group, job.rows, waiting[:fitting]))
                left -= len(part[-1].plans) * state
                waiting = waiting[fitting:]
        if part:
            yield part

    def _state_bytes(self, job: Job) -> int:
        """Of one plan's hidden states."""
        tokens = len(job.group.rows(job.rows)) * job.group.ids.shape[1]
        model = self.evaluator.replay.model
        return int(tokens * model.config.get_text_config(decoder=True).hidden_size * model.dtype.itemsize)
