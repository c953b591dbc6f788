"""One batch of plans at several Ray workers: who is idle gets the end of another's job, and who dies is replaced."""

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.evaluation.job import Job
from searcher.evaluation.ray_session import import_ray
from searcher.runs.measurement import Measurement

MOST_DEATHS = 3
"""How often an actor may die on the same plan before the run ends."""
START_WITHIN = 300
"""Seconds in which the first worker must be ready: a cluster that others use may have no room for any."""
POLL = 0.2
"""Seconds after which an actor without work asks again whether another one has some to spare."""


class Workers(Protocol):
    """The actors, and what can be done with them."""

    @property
    def workers(self) -> list[Any]:
        """All of them."""
        ...

    @property
    def opening(self) -> dict[Any, Any]:
        """Those that are not ready yet, by what says that they are."""
        ...

    def run_job(self, worker: Any, job: Job) -> Any:
        """Begin a job on a worker; its measurements come one by one."""
        ...

    def stop(self, worker: Any) -> None:
        """Let a worker begin no more plans."""
        ...

    def replace(self, dead: Any) -> None:
        """A new worker in the place of a dead one."""
        ...


@dataclass
class _Task:
    """A job at a worker, as the driver knows it."""

    job: Job
    worker: Any
    left: list[PrunePlan] = field(default_factory=list)


class Round:
    """One batch of plans, spread over the workers."""

    def __init__(self, executor: Workers, jobs: deque[Job], deadline: float | None) -> None:
        self._executor, self._jobs, self._deadline = executor, jobs, deadline
        self._tasks: dict[Any, _Task] = {}
        self._deaths: Counter[PrunePlan] = Counter()
        self._failed_starts = 0
        self._stopped, self._begun = False, time.monotonic()
        while len(jobs) < len(executor.workers) and (half := max(jobs, key=lambda job: job.left).give_back()):
            jobs.append(half)

    def results(self) -> Iterator[Measurement]:
        """What the workers measure, as it comes. After Ctrl-C or an error first what they had begun."""
        ray = import_ray()
        error: BaseException | None = None
        while True:
            try:
                self._employ(ray)
                if not self._tasks and (self._stopped or not self._jobs):
                    break
                streams, opening = list(self._tasks), [] if self._stopped else list(self._executor.opening)
                ready, _ = ray.wait([*streams, *opening], num_returns=1, timeout=POLL)
                found = [line for one in ready if (line := self._next(ray, one))]
                self._check_start()
            except (KeyboardInterrupt, UsageError) as raised:
                if self._stopped and isinstance(raised, KeyboardInterrupt):
                    raise  # twice: at once
                error = error or raised
                self._stop()
                continue
            yield from found
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._stop()
        if error is not None:
            raise error

    def _check_start(self) -> None:
        waiting = len(self._executor.opening)
        if waiting == len(self._executor.workers) and time.monotonic() - self._begun > START_WITHIN:
            raise UsageError(
                f"None of {waiting} workers was ready within {START_WITHIN} s",
                "The cluster may be busy: see `ray status`, and lower --workers or try later",
            )

    def _employ(self, ray: Any) -> None:
        """Give each idle worker a job, or the end of another's."""
        busy = {task.worker for task in self._tasks.values()} | set(self._executor.opening.values())
        for worker in list(self._executor.workers):
            if worker in busy or self._stopped:
                continue
            job = self._jobs.popleft() if self._jobs else self._stolen(ray)
            if job is not None:
                self._begin(worker, job)

    def _begin(self, worker: Any, job: Job) -> None:
        self._tasks[self._executor.run_job(worker, job)] = _Task(job, worker, list(job.plans))

    def _stolen(self, ray: Any) -> Job | None:
        busiest = max(self._tasks.values(), key=lambda task: len(task.left), default=None)
        if busiest is None or len(busiest.left) < 2:
            return None
        try:
            plans = ray.get(busiest.worker.give_back.remote())
        except ray.exceptions.RayActorError:
            return None  # its end is noticed where its results are read
        busiest.left = [plan for plan in busiest.left if plan not in plans]
        return Job(busiest.job.split, busiest.job.group, busiest.job.rows, plans) if plans else None

    def _next(self, ray: Any, stream: Any) -> Measurement | None:
        """What there is at a stream; or a worker has become ready."""
        if stream in self._executor.opening:
            self._opened(ray, stream)
            return None
        task = self._tasks[stream]
        try:
            line: Measurement = ray.get(next(stream))
        except StopIteration:
            del self._tasks[stream]
            return None
        except ray.exceptions.RayActorError:
            del self._tasks[stream]
            self._bury(task)
            return None
        except ray.exceptions.RayTaskError as error:
            del self._tasks[stream]
            raise _usage_error(error.cause) from None
        task.left.remove(line.plan)
        return line

    def _opened(self, ray: Any, opening: Any) -> None:
        worker = self._executor.opening.pop(opening)
        try:
            refused: UsageError | None = ray.get(opening)
        except ray.exceptions.RayActorError as error:
            self._failed_starts += 1
            if self._failed_starts == MOST_DEATHS:
                raise UsageError(
                    f"A worker died {MOST_DEATHS} times while it started", "If memory is short, lower --workers"
                ) from error
            self._executor.replace(worker)
            return
        except ray.exceptions.RayTaskError as error:
            raise _usage_error(error.cause) from None
        if refused is not None:
            raise refused

    def _bury(self, task: _Task) -> None:
        """Replace a dead worker and do again what it had not finished."""
        if task.left:
            self._deaths[task.left[0]] += 1
            if self._deaths[task.left[0]] == MOST_DEATHS:
                raise UsageError(
                    f"A worker died {MOST_DEATHS} times while it measured plan {task.left[0]}",
                    "If memory is short: fewer --workers, smaller --memory, or --workers 0 to see the error itself",
                )
            self._jobs.append(Job(task.job.split, task.job.group, task.job.rows, task.left))
        self._executor.replace(task.worker)

    def _stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            for task in self._tasks.values():
                self._executor.stop(task.worker)


def _usage_error(cause: BaseException) -> UsageError:
    if isinstance(cause, UsageError):
        return cause
    return UsageError(f"A worker failed: {type(cause).__name__}: {cause}", "Try --workers 0 to see where")
