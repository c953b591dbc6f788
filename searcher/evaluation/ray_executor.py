"""Evaluators in other processes, on several GPUs or machines: Ray actors, each with the model resident."""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from searcher.contracts.objective import Split
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.evaluation import ray_session as cluster
from searcher.evaluation.executor import Executor
from searcher.evaluation.job import Job, make_jobs
from searcher.evaluation.ray_session import import_ray
from searcher.evaluation.ray_weights import put
from searcher.evaluation.ray_worker import Objectives, Worker
from searcher.healing.calibration import Check
from searcher.runs.measurement import Measurement, Measurements, timed

MOST_DEATHS = 3
"""How often an actor may die on the same plan before the run ends."""
START_WITHIN = 300
"""Seconds in which the first worker must be ready: a cluster that others use may have no room for any."""
POLL = 0.2
"""Seconds after which an actor without work asks again whether another one has some to spare."""


@dataclass
class _Task:
    """A job at a worker, as the driver knows it."""

    job: Job
    worker: Any
    left: list[PrunePlan] = field(default_factory=list)


class RayExecutor:
    """An executor of Ray actors; the same as :class:`searcher.evaluation.executor.Executor` to those who use it.

    Ray starts with the first batch of more than one plan; what needs less is measured in this process.

    Args:
        local: the executor of this process.
        objectives: which to measure.
        workers: how many actors; None for one per GPU of the cluster, or per core where it has none.
        address: of a running cluster, `auto` or HOST:PORT; None to start one on this machine.
        memory: bytes that this machine's actors may take together.
        say: told what is going on.
    """

    def __init__(
        self,
        local: Executor,
        objectives: Objectives,
        workers: int | None,
        address: str | None,
        memory: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.groups, self.layout, self.exact = local.groups, local.layout, local.exact
        self._local, self._objectives, self._memory, self._say = local, objectives, memory, say
        self._wanted, self._address = workers, address
        self._workers: list[Any] = []
        self._opening: dict[Any, Any] = {}  # what says that a worker is ready, and the worker
        self._make: Callable[[], Any] | None = None
        self._leave: Callable[[], None] | None = None
        self._ask = 0

    def measure(
        self,
        split: Split,
        plans: Sequence[PrunePlan],
        known: Measurements,
        windows: Collection[int] | None = None,
        deadline: float | None = None,
    ) -> Iterator[Measurement]:
        """See :meth:`searcher.evaluation.executor.Executor.measure`."""
        if not self._workers and len(plans) == 1:
            yield from self._local.measure(split, plans, known, windows, deadline)
            return
        num_blocks = self._local.evaluator.replay.num_blocks
        jobs = deque(make_jobs(split, self.groups[split], plans, known, windows, num_blocks))
        if not jobs:
            return
        if not self._workers:
            self._start()
        self._ask += 1
        yield from timed(_Round(self, jobs, deadline).results())

    def run_job(self, worker: Any, job: Job) -> Any:
        """Begin a job on a worker; its measurements come one by one."""
        group = self.groups[job.split].index(job.group)
        return worker.run.options(num_returns="streaming").remote(self._ask, job.split, group, job.rows, job.plans)

    def stop(self, worker: Any) -> None:
        """Let a worker begin no more plans of this ask."""
        worker.stop.remote(self._ask)

    def replace(self, dead: Any) -> None:
        """A new worker in the place of a dead one."""
        assert self._make is not None, "a worker has died, so there is a way to make one"
        self._workers[self._workers.index(dead)] = self._make()

    @property
    def workers(self) -> list[Any]:
        """The actors."""
        return self._workers

    @property
    def opening(self) -> dict[Any, Any]:
        """The actors that are not ready yet, by what says that they are."""
        return self._opening

    def watch(self, watch: Callable[[PrunePlan, Check], None]) -> None:
        """Tell this of every check of a healing in this process; what the workers do is heard of when it is done."""
        self._local.watch(watch)

    def close(self) -> None:
        """End the actors, and Ray if it was started for this executor."""
        if self._leave is None:
            return
        ray, leave = import_ray(), self._leave
        self._leave = self._make = None
        for worker in self._workers:
            ray.kill(worker)
        self._workers, self._opening = [], {}
        leave()

    def _start(self) -> None:
        replay = self._local.evaluator.replay
        weights = sum(tensor.nbytes for tensor in (*replay.model.parameters(), *replay.model.buffers()))
        gpu = replay.model.device.type == "cuda"
        if self._address is None:
            self._say("Starting Ray")
            gpus = torch.cuda.device_count() if gpu else 0
            self._leave = cluster.start(max(gpus, self._wanted or 0, torch.get_num_threads()), gpus, weights)
        else:
            self._say(f"Joining the Ray cluster at {self._address}")
            self._leave = cluster.join(self._address)
        count, cores = self._sizes(gpu)
        self._hire(put(self._local), count, cores, gpu)
        if gpu:
            replay.model.to("cpu")  # the actors have it on their GPUs
            torch.cuda.empty_cache()
        self._say(f"{count} workers on {cores} core{'s' * (cores > 1)} each" if not gpu else f"{count} workers on GPUs")

    def _sizes(self, gpu: bool) -> tuple[int, int]:
        """How many workers, on how many cores each."""
        nodes = cluster.devices_of_nodes("GPU" if gpu else "CPU")
        count = self._wanted or sum(nodes)
        cores = cluster.cores_of_each(nodes, count) if count else 0
        if not cores:
            what = "GPUs" if gpu else "cores"
            raise UsageError(f"{count} workers are more than the {sum(nodes)} {what} there are", "Lower --workers")
        return count, 1 if gpu else cores

    def _hire(self, model: Any, count: int, cores: int, gpu: bool) -> None:
        options = {"num_gpus": 1, "num_cpus": 1} if gpu else {"num_cpus": cores}
        actor = import_ray().remote(Worker).options(max_concurrency=4, scheduling_strategy="SPREAD", **options)

        def make() -> Any:
            worker = actor.remote()
            self._opening[worker.open.remote(model, self._objectives, cores, self._memory // count)] = worker
            return worker

        self._make = make
        self._workers = [make() for _ in range(count)]


AnyExecutor = Executor | RayExecutor
"""In this process or in others: whoever uses it need not know."""


class _Round:
    """One batch of plans, spread over the workers."""

    def __init__(self, executor: RayExecutor, jobs: deque[Job], deadline: float | None) -> None:
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


def check_workers(workers: int | None, address: str | None, devices: int, what: str) -> None:
    """Refuse what cannot be before a model is loaded.

    Raises:
        UsageError: Ray is missing, there are more workers than devices, or nothing answers at the address.
    """
    if address is None and not workers:
        return
    import_ray()
    if address is not None:
        cluster.check_address(address)
    elif workers and workers > devices:
        raise UsageError(f"{workers} workers are more than the {devices} {what} of this machine", "Lower --workers")


def _usage_error(cause: BaseException) -> UsageError:
    if isinstance(cause, UsageError):
        return cause
    return UsageError(f"A worker failed: {type(cause).__name__}: {cause}", "Try --workers 0 to see where")
