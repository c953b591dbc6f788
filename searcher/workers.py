"""Evaluators in other processes, on several GPUs or machines: Ray actors, each with the model resident.

This is the only module that knows Ray. The weights go through Ray's object store; on a CPU the actors of a machine
read them there, without a copy of their own.
"""

import os
import socket
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from searcher import registry
from searcher.crew import Crew, one_core
from searcher.errors import UsageError
from searcher.evaluator import Evaluator
from searcher.job import Job, make_jobs
from searcher.kept import KeptStates
from searcher.measurement import Measurement, Measurements
from searcher.memory import find_room, measure_footprint
from searcher.objective import Split
from searcher.own_packages import check_own_packages
from searcher.plan import PrunePlan

MOST_DEATHS = 3
"""How often an actor may die on the same plan before the run ends."""
STORE_RESERVE = 512 << 20
"""Bytes of the object store beside the weights."""
POLL = 0.2
"""Seconds after which an actor without work asks again whether another one has some to spare."""


@dataclass(frozen=True)
class Objectives:
    """What objectives are made of; a user's own class cannot be sent, its name can."""

    options: dict[str, dict[str, Any]]

    def make(self) -> dict[str, Any]:
        """New objectives, by name."""
        return {name: registry.make("objective", name, options) for name, options in self.options.items()}


class Worker:
    """What runs in an actor: a crew of its own.

    Args:
        model: the replay, groups, prices and tokens of a window, as :meth:`WorkerCrew._start` puts them into the store.
        objectives: which to measure.
        cores: how many evaluators at most.
        memory: bytes for this process.
    """

    def __init__(self, model: dict[str, Any], objectives: Objectives, cores: int, memory: int) -> None:
        sys.path.insert(0, str(Path(__file__).parents[1]))  # our `objectives`, not a folder of the user's
        check_own_packages()
        replay, tokens = model["replay"], model["window_tokens"]
        if torch.cuda.is_available():
            replay.model.to("cuda")
        largest = max(group.ids.numel() for groups in model["groups"].values() for group in groups)
        with torch.inference_mode(), one_core():
            footprint = measure_footprint(replay, tokens, max(tokens, largest))
        room = find_room(footprint, memory, replay.model.device, cores)
        self._kept, self._groups = KeptStates(room.kept), model["groups"]
        evaluator = Evaluator(replay, objectives.make(), model["prices"], tokens, self._kept)
        self._crew = Crew(evaluator, self._groups, self._kept, room.evaluators)
        self._ask = 0

    def run(
        self, ask: int, split: Split, group: int, rows: tuple[int, ...], plans: Sequence[PrunePlan]
    ) -> Iterator[Measurement]:
        """Measure plans, in the order in which they share most."""
        if ask != self._ask:
            self._ask = ask
            self._kept.next_ask()
        yield from self._crew.run([Job(split, self._groups[split][group], rows, plans)])

    def give_back(self) -> list[PrunePlan]:
        """About half of the plans that have not been begun, for somebody else."""
        return self._crew.give_back()

    def stop(self) -> None:
        """Begin no more plans."""
        self._crew.stop()

    def process(self) -> int:
        """The number of this process."""
        return os.getpid()


@dataclass
class _Task:
    """A job at a worker, as the driver knows it."""

    job: Job
    worker: Any
    left: list[PrunePlan] = field(default_factory=list)


class WorkerCrew:
    """A crew of Ray actors; the same as :class:`searcher.crew.Crew` to those who use it.

    Ray starts with the first batch of more than one plan; what needs less is measured in this process.

    Args:
        local: the crew of this process.
        objectives: which to measure.
        workers: how many actors; None for one per GPU of the cluster, or per core where it has none.
        address: of a running cluster, `auto` or HOST:PORT; None to start one on this machine.
        memory: bytes that this machine's actors may take together.
        say: told what is going on.
    """

    def __init__(
        self,
        local: Crew,
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
        self._make: Callable[[], Any] | None = None
        self._ask = 0

    def measure(
        self,
        split: Split,
        plans: Sequence[PrunePlan],
        known: Measurements,
        windows: Collection[int] | None = None,
        deadline: float | None = None,
    ) -> Iterator[Measurement]:
        """See :meth:`searcher.crew.Crew.measure`."""
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
        finished = time.perf_counter()
        for measurement in _Round(self, jobs, deadline).results():
            now = time.perf_counter()
            yield replace(measurement, seconds=now - finished)
            finished = now

    def run_job(self, worker: Any, job: Job) -> Any:
        """Begin a job on a worker; its measurements come one by one."""
        group = self.groups[job.split].index(job.group)
        return worker.run.options(num_returns="streaming").remote(self._ask, job.split, group, job.rows, job.plans)

    def replaced(self, dead: Any) -> Any:
        """A new worker in the place of a dead one."""
        assert self._make is not None, "a worker has died, so there is a way to make one"
        self._workers[self._workers.index(dead)] = new = self._make()
        return new

    @property
    def workers(self) -> list[Any]:
        """The actors."""
        return self._workers

    def close(self) -> None:
        """End the actors, and Ray if it was started for this crew."""
        if self._make is None:
            return
        import ray

        self._make = None
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []
        ray.shutdown()

    def _start(self) -> None:
        ray = import_ray()
        replay = self._local.evaluator.replay
        weights = sum(tensor.nbytes for tensor in (*replay.model.parameters(), *replay.model.buffers()))
        gpu = replay.model.device.type == "cuda"
        self._say("Starting Ray" if self._address is None else f"Joining the Ray cluster at {self._address}")
        _init(ray, self._address, self._wanted, weights, gpu)
        self._make = lambda: None  # from now on there is something to close
        available = ray.cluster_resources()
        devices = int(available.get("GPU" if gpu else "CPU", 0))
        count = self._wanted or devices
        if not 1 <= count <= devices:
            what = "GPUs" if gpu else "cores"
            raise UsageError(f"{count} workers are more than the {devices} {what} there are", "Lower --workers")
        cores = 1 if gpu else devices // count
        model = _put(ray, self._local, replay)
        if gpu:
            replay.model.to("cpu")  # the actors have it on their GPUs
            torch.cuda.empty_cache()
        options = {"num_gpus": 1, "num_cpus": 1} if gpu else {"num_cpus": cores}
        actor = ray.remote(Worker).options(max_concurrency=4, **options)
        self._make = lambda: actor.remote(model, self._objectives, cores, self._memory // count)
        self._workers = [self._make() for _ in range(count)]
        self._say(f"{count} workers on {cores} core{'s' * (cores > 1)} each" if not gpu else f"{count} workers on GPUs")


AnyCrew = Crew | WorkerCrew
"""In this process or in others: whoever uses it need not know."""


class _Round:
    """One batch of plans, spread over the workers."""

    def __init__(self, crew: WorkerCrew, jobs: deque[Job], deadline: float | None) -> None:
        self._crew, self._jobs, self._deadline = crew, jobs, deadline
        self._tasks: dict[Any, _Task] = {}
        self._deaths: Counter[PrunePlan] = Counter()
        self._stopped = False
        while len(jobs) < len(crew.workers) and (half := max(jobs, key=lambda job: job.left).give_back()):
            jobs.append(half)

    def results(self) -> Iterator[Measurement]:
        """What the workers measure, as it comes. After Ctrl-C or an error first what they had begun."""
        ray = import_ray()
        error: BaseException | None = None
        while True:
            try:
                self._employ(ray)
                if not self._tasks:
                    break
                ready, _ = ray.wait([*self._tasks], num_returns=1, timeout=POLL)
                found = [line for stream in ready if (line := self._next(ray, stream))]
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

    def _employ(self, ray: Any) -> None:
        """Give each idle worker a job, or the end of another's."""
        busy = {task.worker for task in self._tasks.values()}
        for worker in self._crew.workers:
            if worker in busy or self._stopped:
                continue
            job = self._jobs.popleft() if self._jobs else self._stolen(ray)
            if job is not None:
                self._begin(worker, job)

    def _begin(self, worker: Any, job: Job) -> None:
        self._tasks[self._crew.run_job(worker, job)] = _Task(job, worker, list(job.plans))

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
        self._crew.replaced(task.worker)

    def _stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            for task in self._tasks.values():
                task.worker.stop.remote()


def import_ray() -> Any:
    """Ray, without its reports of usage.

    Raises:
        UsageError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise UsageError("Workers need Ray, which is not installed", 'pip install "searcher[ray]"') from error
    return ray


def check_workers(workers: int | None, address: str | None, devices: int, what: str) -> None:
    """Refuse what cannot be before a model is loaded.

    Raises:
        UsageError: Ray is missing, there are more workers than devices, or nothing answers at the address.
    """
    if address is None and not workers:
        return
    import_ray()
    if address is None and workers and workers > devices:
        raise UsageError(f"{workers} workers are more than the {devices} {what} of this machine", "Lower --workers")
    if address not in (None, "auto"):
        host, _, port = str(address).removeprefix("ray://").rpartition(":")
        if not (host and port.isdigit()):
            raise UsageError(f"Ray address '{address}' is not HOST:PORT", "Write it as 10.0.0.1:6379, or auto")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise _unreachable(str(address), error) from error


def _unreachable(address: str, error: BaseException) -> UsageError:
    return UsageError(
        f"No Ray cluster answers at '{address}' ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
        "Start one with `ray start --head`, or leave --ray-address out",
    )


def _init(ray: Any, address: str | None, workers: int | None, weights: int, gpu: bool) -> None:
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is not None:
            ray.init(address=address, **quiet)
            return
        resources = {"num_gpus": torch.cuda.device_count()} if gpu else {"num_cpus": torch.get_num_threads()}
        if gpu:
            resources["num_cpus"] = max(workers or 0, resources["num_gpus"])
        store = int(1.1 * weights) + STORE_RESERVE
        ray.init(address="local", include_dashboard=False, object_store_memory=store, **resources, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _unreachable(address or "this machine", error) from error


def _put(ray: Any, local: Crew, replay: Any) -> Any:
    """The model and what is measured on it, in the object store."""
    from ray.util.serialization import deregister_serializer, register_serializer

    kinds = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
    for kind in kinds:
        register_serializer(kind, serializer=_to_numpy, deserializer=_from_numpy)
    try:
        return ray.put(
            {
                "replay": replay,
                "groups": local.groups,
                "prices": local.evaluator.prices,
                "window_tokens": local.evaluator.window_tokens,
            }
        )
    finally:
        for kind in kinds:
            deregister_serializer(kind)


def _to_numpy(tensor: Tensor) -> tuple[Any, torch.dtype, bool]:
    """A numpy array, which pickle hands over without a copy; numpy has no bfloat16, so that goes as integers."""
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype in (torch.bfloat16, torch.float16):
        plain = plain.view(torch.int16)
    return plain.numpy(), tensor.dtype, isinstance(tensor, torch.nn.Parameter)


def _from_numpy(sent: tuple[Any, torch.dtype, bool]) -> Tensor:
    array, dtype, is_parameter = sent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the memory is read-only, and nothing writes weights
        tensor = torch.from_numpy(array)
    tensor = tensor if tensor.dtype == dtype else tensor.view(dtype)
    return torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor


def _usage_error(cause: BaseException) -> UsageError:
    if isinstance(cause, UsageError):
        return cause
    return UsageError(f"A worker failed: {type(cause).__name__}: {cause}", "Try --workers 0 to see where")
