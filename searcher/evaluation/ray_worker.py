"""What runs in a Ray actor: an executor of its own, on the model that it was sent."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from searcher.architecture.devices import choose_device
from searcher.contracts import registry
from searcher.contracts.objective import Split
from searcher.contracts.own_packages import check_own_packages
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.evaluation.executor import Executor, one_core
from searcher.evaluation.groups import Groups
from searcher.evaluation.job import Job
from searcher.evaluation.open_executor import executor_for
from searcher.evaluation.ray_weights import Shipment
from searcher.loading.environment import environment
from searcher.runs.identity import environment_changes
from searcher.runs.measurement import Measurement


@dataclass(frozen=True)
class Objectives:
    """What objectives are made of, by label: name and options; a user's own class cannot be sent, its name can."""

    specs: dict[str, tuple[str, dict[str, Any]]]

    def make(self) -> dict[str, Any]:
        """New objectives, by label."""
        return {label: registry.make("objective", name, options) for label, (name, options) in self.specs.items()}


class Worker:
    """What runs in an actor: an executor of its own."""

    _executor: Executor
    _groups: Groups
    _ask = 0
    _stopped = 0  # the ask of which no more plans are begun

    def open(self, shipment: Shipment, objectives: Objectives, cores: int, memory: int) -> UsageError | None:
        """Get ready; what the user can mend is returned, because an actor that raises is a dead one.

        Args:
            shipment: from :func:`searcher.evaluation.ray_weights.put`.
            objectives: which to measure.
            cores: how many evaluators at most.
            memory: bytes for this process, beside the weights that it shares.
        """
        try:
            self._open(shipment, objectives, cores, memory)
        except UsageError as error:
            return error
        return None

    def _open(self, shipment: Shipment, objectives: Objectives, cores: int, memory: int) -> None:
        sys.path.insert(0, str(Path(__file__).parents[2]))  # our `objectives`, not a folder of the user's
        check_own_packages()
        with contextlib.suppress(OSError):  # another machine may have no such folder
            os.chdir(shipment.folder)
        replay, tokens = shipment.replay, shipment.window_tokens
        torch.set_float32_matmul_precision(shipment.precision)
        if shipment.device_type != "cpu":
            replay.move_to(choose_device(shipment.device_type))
        if changes := environment_changes({"environment": shipment.environment}, environment(replay.model.device)):
            raise UsageError(
                f"A worker would measure other numbers than this machine: {'; '.join(changes)}",
                "Take machines of one kind, with the same versions",
            )
        # the weights are counted as taken by each worker, though they are there once (not known but on Linux)
        shared = getattr(psutil.Process().memory_info(), "shared", 0) if shipment.device_type == "cpu" else 0
        self._groups = shipment.groups
        with torch.inference_mode(), one_core():
            self._executor = executor_for(
                replay,
                objectives.make(),
                self._groups,
                shipment.prices,
                tokens,
                shipment.facts,
                memory + shared,
                cores,
                shipment.healing,
                shipment.final,
            )

    def run(
        self, ask: int, split: Split, group: int, rows: tuple[int, ...], plans: Sequence[PrunePlan]
    ) -> Iterator[Measurement]:
        """Measure plans, in the order in which they share most."""
        if ask != self._ask:
            self._ask = ask
            self._executor.next_ask()
        if self._stopped == ask:
            return
        for measurement in self._executor.run([Job(split, self._groups[split][group], rows, plans)]):
            yield measurement
            if self._stopped == ask:  # it may have come before the executor was at work
                self._executor.stop()

    def give_back(self) -> list[PrunePlan]:
        """About half of the plans that have not been begun, for somebody else."""
        return self._executor.give_back()

    def stop(self, ask: int) -> None:
        """Begin no more plans of this ask."""
        self._stopped = ask
        self._executor.stop()

    def process(self) -> int:
        """The number of this process."""
        return os.getpid()
