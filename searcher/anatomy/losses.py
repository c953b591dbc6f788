"""Losses of plans on every window, each measured once however many parts ask for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from searcher.anatomy.work import Done, ignore
from searcher.contracts import registry
from searcher.contracts.cost import Cost, Prices
from searcher.contracts.objective import Split
from searcher.contracts.plan import PrunePlan
from searcher.contracts.trie import layer_forwards, plan_path
from searcher.errors import UsageError
from searcher.evaluation.job import Job, make_jobs
from searcher.evaluation.open_executor import open_executor
from searcher.evaluation.ray_executor import AnyExecutor
from searcher.replay.replay import Replay
from searcher.runs.measurement import Measurement, Measurements


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of plans, measured by an executor and kept.

    Attributes:
        executor: measures the loss of the windows, or an objective that is the same per window, and nothing else.
        known: what has been measured. Add what was stored before, and it is not measured again.
        num_blocks: of the model.
        prices: of the parts of its blocks.
        split: the part of the text.
        objective: its name in the executor.
    """

    executor: AnyExecutor
    known: Measurements
    num_blocks: int
    prices: Prices
    split: Split = "search"
    objective: str = "loss"

    def measure(self, plans: Sequence[PrunePlan], done: Done = ignore) -> Iterator[Measurement]:
        """Measure what is not known yet of these plans, shared prefixes once.

        Yields:
            Each measurement when it is there and has been added to what is known: what is worth storing.
        """
        left = sum(len(job.plans) * len(job.rows) for job in self._jobs(plans))
        for line in self.executor.measure(self.split, tuple(dict.fromkeys(plans)), self.known):
            self.known.add(line)
            yield line
            done(len(line.rows) / left)

    def cost(self, plans: Sequence[PrunePlan]) -> Cost:
        """What measuring them will cost; several evaluators at once run a few shared prefixes twice."""
        jobs, weight = list(self._jobs(plans)), self.prices.weight
        paths = [[plan_path(plan, self.num_blocks) for plan in job.plans] for job in jobs]
        return Cost(
            layer_forwards=sum(layer_forwards(p, weight) * len(job.rows) for p, job in zip(paths, jobs, strict=True)),
            heads=float(sum(len(job.plans) * len(job.rows) for job in jobs)),
        )

    def of(self, plan: PrunePlan) -> NDArray[np.float64]:
        """float64 (windows,): the mean loss per token of each window, in nats.

        Raises:
            UsageError: the plan has not been measured on all of them.
        """
        if not self.known.complete(self.split, plan):
            raise UsageError(f"Plan {plan} has not been measured on every window", "Measure it first")
        return self.known.rows(self.split, plan, self.objective)

    def _jobs(self, plans: Sequence[PrunePlan]) -> Iterator[Job]:
        groups = self.executor.groups[self.split]
        return make_jobs(self.split, groups, tuple(dict.fromkeys(plans)), self.known, None, self.num_blocks)


def open_losses(
    replay: Replay, ids: torch.Tensor, prices: Prices, memory: int | None = None, cores: int | None = None
) -> Losses:
    """An executor of this process that measures losses on these windows, with nothing known.

    Args:
        replay: the model, checked for the granularity of the plans.
        ids: int64 (windows, tokens).
        prices: of the parts of its blocks.
        memory: bytes, see :func:`searcher.evaluation.memory.find_room`.
        cores: how many evaluators at most on a CPU; the numbers do not depend on it.
    """
    objectives = {"loss": registry.make("objective", "loss", {})}
    with torch.inference_mode():
        executor = open_executor(replay, objectives, {"search": ids.cpu()}, None, prices, memory, cores)
    return Losses(executor, Measurements(executor.layout), replay.num_blocks, prices)
