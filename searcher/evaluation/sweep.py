"""Plans taken through the model together, block by block, so that the weights of a block are read once for all.

The states at the frontier of the trie wait, on the host where the device is a GPU, until all of them have passed the
block. What is computed is what one plan at a time would compute, bit for bit on a CPU.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue

import torch
from torch import Tensor

from searcher.contracts.plan import Action
from searcher.contracts.trie import Path, plan_path
from searcher.evaluation.ends import Ends
from searcher.evaluation.evaluator import Evaluator
from searcher.evaluation.job import Job
from searcher.loading.weight_store import WeightStore
from searcher.replay.plan_batching import BatchSizes, in_sizes

Going = Callable[[], bool]


class Sweep:
    """Runs plans through all blocks with several evaluators; use under `torch.inference_mode()`.

    Args:
        evaluators: one for each thread, with modules of its own.
        store: of the model's weights.
    """

    def __init__(self, evaluators: Sequence[Evaluator], store: WeightStore) -> None:
        self._count, self._store = len(evaluators), store
        self._blocks = evaluators[0].replay.num_blocks
        self._free: SimpleQueue[Evaluator] = SimpleQueue()
        for evaluator in evaluators:
            self._free.put(evaluator)
        self._one = evaluators[0]

    def ends(
        self, jobs: Sequence[Job], going: Going, keep: bool = False, at: Callable[[int], None] = lambda block: None
    ) -> list[Ends] | None:
        """The states of every job's plans after the last block; None if it was told to stop.

        Args:
            jobs: on token sequences.
            going: asked before each block.
            keep: whether the states can be taken more than once.
            at: told the number of each block before it is run.
        """
        fronts = [_Front(self._one, job) for job in jobs]
        with self._threads() as run, self._store.on_the_way(self._route(fronts)):
            run([partial(_embed, front) for front in fronts])
            for block in range(self._blocks):
                if not going():
                    return None
                at(block)
                run([task for front in fronts for task in front.tasks(block)])
        return [Ends(front.states, keep) for front in fronts]

    def _route(self, fronts: Sequence["_Front"]) -> list[str]:
        """The parts of the model in the order in which they are needed: blocks that any plan runs, and the rest."""
        run = [b for b in range(self._blocks) if any(p[b] != Action.GONE for front in fronts for p in front.paths)]
        return [*(self._store.parts[block] for block in run), *self._store.parts[self._blocks :]]

    @contextmanager
    def _threads(self) -> Iterator[Callable[[Sequence[Callable[[Evaluator], None]]], None]]:
        """What runs a list of tasks, each with an evaluator that nobody else uses, and waits for all of them."""
        with ThreadPoolExecutor(self._count, initializer=partial(torch.set_num_threads, 1)) as pool:

            def run(tasks: Sequence[Callable[[Evaluator], None]]) -> None:
                for done in [pool.submit(self._do, task) for task in tasks]:
                    done.result()

            yield run

    def _do(self, task: Callable[[Evaluator], None]) -> None:
        evaluator = self._free.get()
        try:
            with torch.inference_mode():
                task(evaluator)
        finally:
            self._free.put(evaluator)


class _Front:
    """The states of a job's plans after the block that has been passed last, by prefix."""

    def __init__(self, evaluator: Evaluator, job: Job) -> None:
        self.batch = evaluator.batch(job)
        self.sizes: BatchSizes = evaluator.sizes(self.batch.ids)
        self.paths = [plan_path(plan, evaluator.replay.num_blocks) for plan in job.plans]
        self.states: dict[Path, Tensor] = {}
        self._uses: Counter[Path] = Counter()
        self._lock = threading.Lock()

    def tasks(self, block: int) -> Iterator[Callable[[Evaluator], None]]:
        """What takes all states through a block, in pieces that may run at the same time."""
        children = list(dict.fromkeys(path[: block + 1] for path in self.paths))
        self._uses = Counter(child[:-1] for child in children)
        for action in Action:
            for piece in in_sizes([child for child in children if child[-1] == action], self.sizes):
                yield partial(self._step, piece)

    def _step(self, children: Sequence[Path], evaluator: Evaluator) -> None:
        device = self.batch.ids.device
        evaluator.sizes(self.batch.ids)  # it then knows these shapes
        parents = [self.states[child[:-1]].to(device) for child in children]
        after = evaluator.step(self.sizes, parents, [*children])
        for child, state in zip(children, after, strict=True):
            self.states[child] = state.cpu()
            self._used(child[:-1])

    def _used(self, parent: Path) -> None:
        with self._lock:
            self._uses[parent] -= 1
            if not self._uses[parent]:
                del self.states[parent]


def _embed(front: _Front, evaluator: Evaluator) -> None:
    front.states[b""] = evaluator.replay.embed(front.batch.ids).cpu()
