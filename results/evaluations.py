"""Every plan that was measured, as a flat table: CSV, Parquet or JSON."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.finished_run import FinishedRun
from searcher.contracts.plan import Part, PrunePlan
from searcher.errors import UsageError
from searcher.runs.files import whole
from searcher.runs.measurement import to_plain_json

Row = dict[str, Any]


def rows(run: FinishedRun, name: str | None = None) -> Iterator[Row]:
    """The plans measured in full on the search split, and those judged on the report split, sorted.

    Columns: `run`, `model`, `text`, `strategy`, `granularity`; `size` and `plan`; whether it was `chosen` for its size
    and is `on_front`; `search_NAME`, `report_NAME`, `low_NAME` and `high_NAME` (95% interval) of each objective;
    `removed_blocks`, whole ones, and `removed_attention` and `removed_ffn`, those of whole blocks among them; and what
    the plan leaves of the model: `parameters`, `weights-bytes`, `kv-cache` a token, `flops` a token. None where a value
    was not measured; NaN and infinity are values of plans that break the model.

    Args:
        run: the run.
        name: what it is called in the table; by default its folder's name.
    """
    chosen, front = {e.plan for e in run.chosen}, {e.plan for e in run.front()}
    measured = run.measurements
    for plan in sorted({*measured.plans("search"), *measured.plans("report")}):
        yield {
            "run": name or run.folder.name,
            "model": run.record["model"],
            "text": run.record["text"],
            "strategy": run.config.strategy,
            "granularity": str(run.config.granularity),
            "size": plan.size(run.config.granularity),
            "plan": str(plan),
            "chosen": plan in chosen,
            "on_front": plan in front,
            **_values(run, plan),
            **_removed(plan),
            **{label: float(amount.left(plan)) for label, amount in run.amounts.items()},
        }


def _values(run: FinishedRun, plan: PrunePlan) -> Row:
    evaluation = run.evaluation(plan)
    searched, judged = (run.measurements.complete(split, plan) for split in ("search", "report"))
    found: Row = {}
    for name, report in evaluation.report.items():
        found[f"search_{name}"] = evaluation.search[name] if searched else None
        for kind, value in (("report", report.value), ("low", report.low), ("high", report.high)):
            found[f"{kind}_{name}"] = value if judged else None
    return found


def _removed(plan: PrunePlan) -> Row:
    parts = [unit.part for unit in plan.removed]
    blocks = parts.count(Part.BLOCK)
    return {
        "removed_blocks": blocks,
        "removed_attention": blocks + parts.count(Part.ATTENTION),
        "removed_ffn": blocks + parts.count(Part.FFN),
    }


def write_evaluations(runs: Sequence[FinishedRun], path: Path) -> int:
    """Write the plans of the runs, one after the other, in the format of the file's suffix; returns how many.

    Columns that a run does not have are empty for it. NaN and infinity are written as `nan`, `inf` and `-inf` in CSV
    and JSON, as numbers in Parquet.

    Raises:
        UsageError: the suffix is none of these, or the file cannot be written.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UsageError(f"{path} has no suffix of a table", f"Name a file that ends with {', '.join(_WRITERS)}")
    names = [run.folder.name for run in runs]
    if len(set(names)) < len(names):  # of different folders of runs
        names = [str(run.folder) for run in runs]
    table = [row for run, name in zip(runs, names, strict=True) for row in rows(run, name)]
    columns = list(dict.fromkeys(column for row in table for column in row))
    with whole(path) as temporary:
        write([{column: row.get(column) for column in columns} for row in table], temporary)
    return len(table)


def _write_csv(table: list[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def _write_parquet(table: list[Row], path: Path) -> None:
    columns = {name: pa.array([row[name] for row in table], _type(row[name] for row in table)) for name in table[0]}
    pq.write_table(pa.table(columns), path)


def _type(values: Iterator[Any]) -> Any:
    """The type of a column, also of one that holds nothing: only numbers can be missing."""
    kind: type = next((type(value) for value in values if value is not None), float)
    return {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}[kind]


def _write_json(table: list[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(to_plain_json(table), file, indent=1, allow_nan=False)
        file.write("\n")


_WRITERS: dict[str, Callable[[list[Row], Path], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".json": _write_json,
}
