"""Several evaluators at work on one batch of plans, in this process: one for each core, or one for each accelerator.

On a CPU each evaluator computes on one core. That is faster than several cores on one matrix product, and the numbers
then do not depend on how many cores there are: a product split over other threads rounds differently.

A model that is spread over several accelerators has as many evaluators as it has devices. Each takes plans of its own
through all of them. While the states of one plan are in the blocks of the second device, those of another are in the
blocks of the first: plans follow each other as in a pipeline, without a schedule. A thread waits for a device only
where it reads a result, at the end of a plan; until then the others give the devices work.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

import torch

from searcher.architecture.devices import computes_on_cpu
from searcher.contracts.objective import Split
from searcher.contracts.plan import PrunePlan
from searcher.evaluation.evaluator import Evaluator
from searcher.evaluation.groups import Groups
from searcher.evaluation.job import Job, make_jobs
from searcher.evaluation.prefix_cache import PrefixCache
from searcher.healing.calibration import Check
from searcher.runs.layout import Layout
from searcher.runs.measurement import Measurement, Measurements, timed


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Every torch operation on one core, in this thread and those it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Executor:
    """Measures plans with several threads.

    Args:
        evaluator: the first of the executor, from which the others are made when they are needed.
        groups: the token sequences of each split.
        kept: the states that the evaluators keep.
        cores: how many evaluators there may be.
    """

    def __init__(self, evaluator: Evaluator, groups: Groups, kept: PrefixCache, cores: int) -> None:
        self.groups, self.evaluator = groups, evaluator
        self._evaluators, self._kept, self._cores = [evaluator], kept, cores
        self._shift: _Shift | None = None

    @property
    def exact(self) -> bool:
        """Whether values are the same to the last bit in every repetition: so on a CPU, not promised elsewhere."""
        return all(map(computes_on_cpu, self.evaluator.replay.devices))

    @property
    def layout(self) -> Layout:
        """Names, sizes and objectives of the groups."""
        return {split: tuple(group.layout for group in groups) for split, groups in self.groups.items()}

    def measure(
        self,
        split: Split,
        plans: Sequence[PrunePlan],
        known: Measurements,
        windows: Collection[int] | None = None,
        deadline: float | None = None,
    ) -> Iterator[Measurement]:
        """Measure what is not known yet of these plans, each measurement as soon as it is there.

        Args:
            split: which part of the text.
            plans: distinct plans.
            known: what has been measured; not changed here.
            windows: numbers of the windows to run; None for all. Own inputs are always run whole.
            deadline: no plan is begun after it, by `time.monotonic`.

        Raises:
            UsageError: an objective raised an error or returned something else than a number for each row.
            KeyboardInterrupt: on Ctrl-C, after what was being measured has been given out.
        """
        jobs = list(make_jobs(split, self.groups[split], plans, known, windows, self.evaluator.replay.num_blocks))
        if jobs:
            self.next_ask()
            yield from self.run(jobs, deadline)

    def next_ask(self) -> None:
        """What is run from now on is of another batch of plans; see :mod:`searcher.evaluation.prefix_cache`."""
        self._kept.next_ask()

    def run(self, jobs: Sequence[Job], deadline: float | None = None) -> Iterator[Measurement]:
        """Do these jobs; see :meth:`measure`."""
        count = min(self._cores, sum(len(job.plans) for job in jobs))
        while len(self._evaluators) < count:
            self._evaluators.append(self.evaluator.colleague())
        self._shift = _Shift(jobs, deadline)
        with self._shift.at_work(self._evaluators[:count]):
            yield from timed(self._shift.results())

    def give_back(self) -> list[PrunePlan]:
        """From another thread: plans that have not been begun, the last half of the longest job's, for others to do."""
        job = self._shift.give_back() if self._shift else None
        return job.plans if job else []

    def stop(self) -> None:
        """From another thread: begin no more plans of the jobs at hand."""
        if self._shift:
            self._shift.stop()

    def watch(self, watch: Callable[[PrunePlan, Check], None], say: Callable[[str], None]) -> None:
        """From now on tell this of every check of a healing, and in words how it is done."""
        if healer := self.evaluator.final or self.evaluator.healer:
            healer.watched_by(watch, say)

    def keep_unfinished(self, folder: Callable[[PrunePlan], Path | None]) -> None:
        """From now on keep healings that are ended in the middle in this folder of a plan."""
        if healer := self.evaluator.final or self.evaluator.healer:
            healer.keep_unfinished(folder)

    def close(self) -> None:
        """There is nothing to end: threads live as long as a batch of plans."""


class _Shift:
    """The threads of one batch: whoever has nothing to do takes a job, or half of what another has not begun."""

    def __init__(self, jobs: Sequence[Job], deadline: float | None) -> None:
        self._waiting, self._running = deque(jobs), list[Job]()
        self._deadline = deadline
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._queue: SimpleQueue[Measurement | BaseException | None] = SimpleQueue()
        self._at_work = 0

    @contextlib.contextmanager
    def at_work(self, evaluators: Sequence[Evaluator]) -> Iterator[None]:
        """Start a thread for each evaluator; stop them all in the end."""
        with one_core():
            threads = [threading.Thread(target=self._work, args=(e,), daemon=True) for e in evaluators]
            self._at_work = len(threads)
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                self._stopped.set()
                for thread in threads:
                    thread.join()

    def results(self) -> Iterator[Measurement]:
        """What the threads measure. After an error, or Ctrl-C, first what they had begun."""
        error: BaseException | None = None
        while self._at_work:
            try:
                found = self._queue.get()
            except KeyboardInterrupt as interrupt:
                error = interrupt
                self._stopped.set()
                continue
            if isinstance(found, Measurement):
                yield found
                continue
            self._at_work -= 1
            if found is not None:
                error = error or found
                self._stopped.set()
        if error is not None:
            raise error

    def stop(self) -> None:
        """Begin no more plans."""
        self._stopped.set()

    def give_back(self) -> Job | None:
        """The end of the longest job, which is then nobody's here."""
        with self._lock:
            longest = max([*self._waiting, *self._running], key=lambda job: job.left, default=None)
            return longest.give_back() if longest else None

    def _work(self, evaluator: Evaluator) -> None:
        ended: BaseException | None = None
        try:
            with torch.inference_mode(), one_core():
                while self._going() and (job := self._next_job()):
                    for measurement in evaluator.run(job, self._going):
                        self._queue.put(measurement)
                    with self._lock:
                        self._running.remove(job)
        except BaseException as error:  # raised again where the results are read
            ended = error
        self._queue.put(ended)

    def _going(self) -> bool:
        return not self._stopped.is_set() and (self._deadline is None or time.monotonic() < self._deadline)

    def _next_job(self) -> Job | None:
        with self._lock:
            busiest = max(self._running, key=lambda job: job.left, default=None)
            job = self._waiting.popleft() if self._waiting else busiest.give_back() if busiest else None
            if job:
                self._running.append(job)
            return job
