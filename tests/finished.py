"""Finished runs for tests of results, made on the tiny checkpoint and changed as a test needs them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_checkpoint import OPTIONS

import searcher
from results.run import Run
from searcher.runs.journal import EVALUATIONS_FILE, RUN_FILE


def finish(tiny: Path, runs_dir: Path, name: str, **options: Any) -> Run:
    """A run of this name on the tiny checkpoint."""
    model, data = str(tiny / "model"), str(tiny / "text.jsonl")
    return searcher.run(model=model, data=data, name=name, runs_dir=str(runs_dir), quiet=True, **{**OPTIONS, **options})


def changed(
    run: Run,
    folder: Path,
    record: Callable[[dict[str, Any]], None] = lambda record: None,
    line: Callable[[dict[str, Any]], None] = lambda line: None,
) -> Run:
    """A copy of a run whose `run.json` and every line of whose journal went through these functions."""
    shutil.copytree(run.folder, folder)
    content = json.loads((folder / RUN_FILE).read_text())
    record(content)
    (folder / RUN_FILE).write_text(json.dumps(content))
    lines = [json.loads(text) for text in (folder / EVALUATIONS_FILE).read_text().splitlines()]
    for one in lines:
        line(one)
    (folder / EVALUATIONS_FILE).write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    return Run(folder)
