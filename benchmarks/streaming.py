"""A search with weights in memory, and the same with weights from the disk: the same bits, in what memory and time?"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import report
from benchmarks.setting import Setting, start
from benchmarks.steps import Steps
from searcher.errors import UsageError

WAYS = ("resident", "streamed")
JOURNAL = "evaluations.jsonl"


def main(
    model: Annotated[str | None, typer.Option(help="A folder or .gguf file. Default: the embedded model.")] = None,
    memory: Annotated[str, typer.Option(help="What the streamed search may take.")] = "900MiB",
    budget: Annotated[int, typer.Option(help="Blocks that greedy removes.", min=1)] = 8,
    windows: Annotated[int, typer.Option(help="Search windows.", min=1)] = 8,
    window_tokens: Annotated[int, typer.Option(help="Tokens of each.", min=2)] = 128,
    out: Annotated[Path | None, typer.Option(help="Folder for figures as JSON. Default: none.")] = None,
) -> None:
    """Greedy over blocks, each way in a process of its own, one after the other.

    Takes 3 minutes for the embedded model on 2 cores with AMX, and 15 for one of 3 billion parameters.
    """
    with tempfile.TemporaryDirectory() as scratch, Steps("streaming") as steps:
        steps.expect(len(WAYS))
        found: dict[str, dict[str, Any]] = {}
        for way in WAYS:
            steps.at(way)
            limit = ["--memory", memory] if way == "streamed" else []
            text = ["--windows", str(windows), "--window-tokens", str(window_tokens)]
            options = ["--budget", str(budget), *text, "--weights", way, *limit]
            found[way] = _run(["--model", model] if model else [], options, Path(scratch) / way)
            steps.done()
        same = _values(Path(scratch) / "resident") == _values(Path(scratch) / "streamed")
    rows = [{"weights": way, **figures} for way, figures in found.items()]
    for row in rows:
        row["time to resident"] = row["seconds"] / rows[0]["seconds"]
    on = f"{windows} windows of {window_tokens} tokens"
    title = f"Greedy {budget} on {on}, {model or 'the embedded model'}, streamed in {memory}"
    name = f"streaming-{Path(model).name if model else 'embedded'}"
    report(Setting(out=out), name, title, rows, same_bits=same)
    if not same:
        raise UsageError("Both ways gave other values", "This is an error of searcher: report it")


def _run(model: list[str], options: list[str], runs: Path) -> dict[str, Any]:
    """A search in a process of its own: how long it took, and what it had in memory at most."""
    command = [
        sys.executable,
        "-m",
        "searcher",
        "run",
        "--strategy",
        "greedy",
        "--runs-dir",
        str(runs),
        "--name",
        "run",
    ]
    started = time.perf_counter()
    process = subprocess.Popen([*command, *model, *options], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UsageError("A search failed; what it says is above", "Mend that first")
    outcome = json.loads((runs / "run" / "run.json").read_text(encoding="utf-8"))["outcome"]
    return {
        "seconds": time.perf_counter() - started,
        "of it searching": outcome["cost"]["seconds"],
        "CPU seconds": usage.ru_utime + usage.ru_stime,
        "peak MiB": usage.ru_maxrss / 1024,
    }


def _values(runs: Path) -> dict[str, Any]:
    """Every value of a run's journal, by what it is of."""
    lines = [json.loads(line) for line in (runs / "run" / JOURNAL).read_text(encoding="utf-8").splitlines()]
    return {json.dumps([line.get(k) for k in ("split", "plan", "group", "rows")]): line.get("values") for line in lines}


cli = main

if __name__ == "__main__":
    start(cli)
