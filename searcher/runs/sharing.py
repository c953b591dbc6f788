"""Measurements that other runs in the same runs folder have made: what is equal need not be measured twice.

A run takes over what it asks for into its own journal, marked with the run it came from; so it stays whole by itself.
Its ledger charges for it as for any other measurement: comparisons at equal cost stay fair.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from searcher.contracts.objective import Split
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.runs.identity import measurement_identity
from searcher.runs.journal import RUN_FILE, read_evaluations
from searcher.runs.layout import Layout, rows_wanted
from searcher.runs.measurement import Measurement, Measurements
from searcher.runs.run_file import read_run_file

_Key = tuple[Split, PrunePlan, str]


@dataclass
class Shared:
    """Values by split, plan and group, each with the run that measured it.

    Attributes:
        runs: names of the runs that there is something from.
    """

    runs: tuple[str, ...] = ()
    _rows: dict[_Key, dict[int, tuple[str, dict[str, float]]]] = field(default_factory=dict)

    def add(self, run: str, line: Measurement) -> None:
        """Take in what a run has measured."""
        rows = self._rows.setdefault((line.split, line.plan, line.group), {})
        for position, row in enumerate(line.rows):
            rows.setdefault(row, (run, {name: numbers[position] for name, numbers in line.values.items()}))

    def lines(
        self,
        layout: Layout,
        split: Split,
        plans: Iterable[PrunePlan],
        known: Measurements,
        windows: Collection[int] | None,
    ) -> Iterator[Measurement]:
        """What is missing of these plans and known here; see :meth:`searcher.evaluation.executor.Executor.measure`."""
        groups = layout[split]
        wanted = list(zip(groups, rows_wanted(groups, windows), strict=True))
        for plan in plans:
            for group, rows in wanted:
                here = self._rows.get((split, plan, group.name), {})
                by_run: dict[str, dict[int, dict[str, float]]] = {}
                for row in known.missing(split, plan, group.name, rows):
                    if row in here:
                        run, values = here[row]
                        by_run.setdefault(run, {})[row] = values
                for run, found in by_run.items():
                    values_by_name = {name: tuple(v[name] for v in found.values()) for name in group.objectives}
                    yield Measurement(split, plan, group.name, tuple(found), values_by_name, run=run)


def find_shared(folder: Path, record: dict[str, Any]) -> Shared:
    """What the other runs beside this folder have measured with the same configuration of measurement.

    Runs that are damaged, or of another version, are passed over.

    Args:
        folder: of this run.
        record: what its `run.json` holds.
    """
    shared, own = Shared(), measurement_identity(record)
    for path in sorted(folder.parent.glob(f"*/{RUN_FILE}")):
        if path.parent == folder:
            continue
        try:
            if measurement_identity(read_run_file(path.parent)) != own:
                continue
            lines = list(read_evaluations(path.parent))
        except (UsageError, LookupError):
            continue
        for line in lines:
            shared.add(path.parent.name, line)
        shared.runs += (path.parent.name,)
    return shared
