"""Measuring plans so that nothing is lost, and nothing measured twice."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from searcher.contracts.objective import Split
from searcher.contracts.plan import PrunePlan
from searcher.evaluation.ray_executor import AnyExecutor
from searcher.runs.journal import Journal
from searcher.runs.measurement import Measurement, Measurements
from searcher.runs.sharing import Shared

Listener = Callable[[Measurement], None]


@dataclass
class Recorder:
    """Measures plans and keeps every measurement: what the journal holds is not measured again.

    Args:
        executor: measures plans.
        journal: keeps each measurement as soon as it is there.
        known: all values so far; grows.
        shared: what other runs have measured, taken over instead of measuring it again.
        lines: all measurements so far, in the order they were made; grows.
        listeners: told of each new measurement, after it was kept.
    """

    executor: AnyExecutor
    journal: Journal
    known: Measurements
    shared: Shared = field(default_factory=Shared)
    lines: list[Measurement] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)

    @classmethod
    def resume(cls, executor: AnyExecutor, journal: Journal, shared: Shared, *listeners: Listener) -> "Recorder":
        """A recorder that knows what the journal holds.

        Raises:
            UsageError: the journal is damaged.
        """
        recorder = cls(executor, journal, Measurements(executor.layout), shared, listeners=list(listeners))
        for line in journal.read():
            recorder._take(line)
        return recorder

    def _take(self, line: Measurement) -> None:
        self.lines.append(line)
        self.known.add(line)

    def measure(
        self,
        split: Split,
        plans: Iterable[PrunePlan],
        windows: Sequence[int] | None = None,
        deadline: float | None = None,
        share: bool = True,
    ) -> bool:
        """Measure these plans on this split; False if the deadline came before the end.

        Args:
            split: whose windows are run.
            plans: what is removed.
            windows: some of the windows; None for all.
            deadline: by `time.monotonic`; None for never.
            share: whether what other runs have measured is taken over.
        """
        distinct = tuple(dict.fromkeys(plans))
        if share and (known := list(self.shared.lines(self.executor.layout, split, distinct, self.known, windows))):
            self._keep(*known)
        for measurement in self.executor.measure(split, distinct, self.known, windows, deadline):
            self._keep(measurement)
        return deadline is None or all(self.known.covers(split, plan, windows) for plan in distinct)

    def _keep(self, *measurements: Measurement) -> None:
        self.journal.append(*measurements)
        for measurement in measurements:
            self._take(measurement)
            for heard in self.listeners:
                heard(measurement)
