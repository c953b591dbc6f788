"""What the study found, as CSV files from which each of its claims can be recomputed."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from searcher.runs.files import replacing
from study.measure import Findings
from study.records import CERTIFICATES, ROWS, SEARCHES, WINDOWS, Found
from study.searches import Search


def write_tables(findings: Findings, folder: Path) -> None:
    """Write all tables, each whole or not at all.

    - `searches.csv`: a row per search: where, what and how was searched, the plan, its value on the search windows (a
      perplexity, or an accuracy on choices), and what it cost;
    - `rows.csv`: the numbers of a plan on unseen text, separated by spaces: mean losses or divergences of windows in
      nats per token, or 1 for each right item and 0 for each wrong one;
    - `windows.csv`: the document that each report window was cut from;
    - `certificates.csv`: spaces of which every plan was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / SEARCHES, [asdict(_search(search)) for search in findings.searches])
    rows = [
        {"text": text, "measure": measure, "plan": plan, "values": " ".join(f"{value:.6g}" for value in values)}
        for (text, measure, plan), values in sorted(findings.rows)
    ]
    _write(folder / ROWS, rows)
    windows = [
        {"text": text, "window": window, "document": document}
        for text, documents in findings.documents.items()
        for window, document in enumerate(documents)
    ]
    _write(folder / WINDOWS, windows)
    _write(folder / CERTIFICATES, [asdict(one) for one in findings.certificates])


def _search(search: Search) -> Found:
    run = search.run
    cost, (objective, *_) = run.outcome["cost"], run.config.goals
    return Found(
        text=search.text,
        granularity=str(run.config.granularity),
        size=search.size,
        data_seed=run.config.data_seed,
        method=search.method,
        windows=run.record["identity"]["windows"],
        plan=str(run.best.plan),
        objective=objective,
        search_value=run.best.search[objective],
        plans_charged=cost["charged"]["evaluations"],
        cost_charged=cost["charged"]["total"],
        cost_run=cost["executed"]["total"],
        seconds=cost["seconds"],
        run=run.folder.name,
    )


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
