"""The study from the first search to the tables: told how it goes, and how long it took in all."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import searcher
from benchmarks.common import machine
from searcher.runs.journal import write_json
from study.forecast import hours
from study.measure import Findings, count_steps, measure
from study.setting import Setting
from study.tables import write_tables

CLOCK = "clock.json"


class Clock:
    """Minutes that the study has taken, over all calls that it was interrupted by.

    Args:
        path: where they are kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before: float = json.loads(path.read_text(encoding="utf-8"))["minutes"] if path.exists() else 0.0
        self._started = time.monotonic()

    def minutes(self) -> float:
        """So far; kept at once."""
        minutes = self._before + (time.monotonic() - self._started) / 60
        write_json(self._path, {"minutes": minutes})
        return minutes


def conduct(setting: Setting, data: Path, prose: Path | None = None, choices: Path | None = None) -> None:
    """Measure what is not known yet, and write the tables.

    Args:
        setting: what to measure.
        data: the folder of the tables.
        prose: the text that was given in place of the usual one.
        choices: the same for the multiple-choice items.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"Tier {setting.tier.name}: {hours(setting):.1f} hours at most where nothing is known yet")
    clock = Clock(setting.folder / CLOCK)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("study", total=count_steps(setting))

        def step(told: str) -> None:
            progress.advance(task)
            console.print(f"{clock.minutes():5.1f} min  {told}")

        findings = measure(setting, step)
        progress.update(task, completed=count_steps(setting))
    write_tables(findings, data)
    _anatomy(setting, data)
    described = _described(setting, findings, prose, choices, clock.minutes())
    (data / "setting.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _anatomy(setting: Setting, data: Path) -> None:
    """The interactions of blocks, as `searcher analyze` draws them."""
    options = setting.measured_on("prose") | {"windows": setting.tier.spaces[0].windows, "runs_dir": setting.folder}
    del options["objective"], options["report_windows"]
    folder = searcher.analyze(parts=["interactions"], name="anatomy", quiet=True, **options)
    shutil.copy(folder / "interactions.png", data / "interactions.png")


def _described(
    setting: Setting, findings: Findings, prose: Path | None, choices: Path | None, minutes: float
) -> dict[str, Any]:
    """What the page says of the model, the texts and the machine."""
    record = findings.searches[0].run.record
    return {
        "command": "make study" if setting.tier.name == "a" else f"python -m study --tier {setting.tier.name}",
        "tier": setting.tier.name,
        "model": record["model"],
        "dtype": record["identity"]["dtype"],
        "data_seeds": list(setting.tier.data_seeds),
        "texts": {
            "prose": prose.name
            if prose
            else "300 news articles, the Lee background corpus (Lee, Pincombe & Welsh 2005)",
            "manual": "the topics of Python's own help",
            "code": "modules of Python's standard library",
            "choices": choices.name if choices else "minimal pairs of English grammar, made from templates",
        },
        "minutes": minutes,
        "machine": machine(),
    }
