"""Evaluators in other processes, on several GPUs or machines: Ray actors, each with the model resident."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from searcher.architecture.devices import computes_on_cpu, free_memory, seen
from searcher.contracts.objective import Split
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.evaluation.executor import Executor
from searcher.evaluation.job import Job, make_jobs
from searcher.evaluation.ray_round import Round
from searcher.evaluation.ray_session import check_address, cores_of_each, devices_of_nodes, import_ray, join, start
from searcher.evaluation.ray_weights import put
from searcher.evaluation.ray_worker import Objectives, Worker
from searcher.healing.calibration import Check
from searcher.runs.measurement import Measurement, Measurements, timed


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
        yield from timed(Round(self, jobs, deadline).results())

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

    def watch(self, watch: Callable[[PrunePlan, Check], None], say: Callable[[str], None]) -> None:
        """Tell this of every check of a healing in this process; what the workers do is heard of when it is done."""
        self._local.watch(watch, say)

    def keep_unfinished(self, folder: Callable[[PrunePlan], Path | None]) -> None:
        """Keep healings of this process that are ended in the middle; those of workers begin anew."""
        self._local.keep_unfinished(folder)

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
        device = replay.model.device
        gpu = not computes_on_cpu(device)
        if self._address is None:
            self._say("Starting Ray")
            gpus = seen()[1] if gpu else 0
            self._leave = start(max(gpus, self._wanted or 0, torch.get_num_threads()), gpus, weights)
        else:
            self._say(f"Joining the Ray cluster at {self._address}")
            self._leave = join(self._address)
        count, cores = self._sizes(gpu)
        self._hire(put(self._local), count, cores, gpu)
        if gpu:
            replay.move_to(torch.device("cpu"))  # the actors have it on their GPUs
            free_memory(device)
        self._say(f"{count} workers on {cores} core{'s' * (cores > 1)} each" if not gpu else f"{count} workers on GPUs")

    def _sizes(self, gpu: bool) -> tuple[int, int]:
        """How many workers, on how many cores each."""
        nodes = devices_of_nodes("GPU" if gpu else "CPU")
        count = self._wanted or sum(nodes)
        cores = cores_of_each(nodes, count) if count else 0
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


def check_workers(workers: int | None, address: str | None, devices: int, what: str) -> None:
    """Refuse what cannot be before a model is loaded.

    Raises:
        UsageError: Ray is missing, there are more workers than devices, or nothing answers at the address.
    """
    if address is None and not workers:
        return
    import_ray()
    if address is not None:
        check_address(address)
    elif workers and workers > devices:
        raise UsageError(f"{workers} workers are more than the {devices} {what} of this machine", "Lower --workers")
