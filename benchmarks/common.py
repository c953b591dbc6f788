"""What the benchmarks share: the model opened for measuring, the machine described, a table printed and written."""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from objectives.loss import Loss
from searcher.cost import Prices
from searcher.crew import Crew, one_core, open_crew
from searcher.evaluator import Evaluator
from searcher.measurement import Measurements
from searcher.model import LoadedModel, load_model
from searcher.plan import Granularity, PrunePlan
from searcher.prices import measure_prices
from searcher.replay import Replay
from searcher.selfcheck import open_replay
from searcher.text import load_text
from searcher.windows import cut_windows

RESULTS = Path(__file__).parent / "results"


@dataclass
class Opened:
    """A model and its search windows."""

    loaded: LoadedModel
    replay: Replay
    prices: Prices
    ids: Tensor

    def crew(self, cores: int | None = None, memory: int | None = None) -> Crew:
        """A new crew, which keeps nothing yet."""
        windows, tokenizer = {"search": self.ids}, self.loaded.tokenizer
        with torch.inference_mode():
            return open_crew(self.replay, {"loss": Loss()}, windows, tokenizer, self.prices, memory, cores)  # type: ignore[arg-type]

    def warm_crew(self) -> Crew:
        """One whose threads have their evaluators already."""
        crew = self.crew()
        measure(crew, [PrunePlan(), PrunePlan.parse("0")], Measurements(crew.layout))
        return crew


def open_model(
    dtype: str, windows: int, tokens: int, granularity: Granularity, data_seed: int = 0, device: str = "auto"
) -> Opened:
    """The embedded model with windows of the embedded text."""
    loaded = load_model(None, dtype=dtype, device=device)
    ids = windows_of(loaded, windows, tokens, data_seed)
    with torch.inference_mode():
        replay = open_replay(loaded.model, granularity)
        return Opened(loaded, replay, measure_prices(replay, tokens), ids)


def windows_of(loaded: LoadedModel, windows: int, tokens: int, data_seed: int) -> Tensor:
    """int64 (windows, tokens) of the search split of the embedded text."""
    text = load_text(None).search
    return cut_windows(text, loaded.tokenizer, tokens=tokens, count=windows, split="search", seed=data_seed).ids


def measure(crew: Crew, plans: Sequence[PrunePlan], known: Measurements) -> float:
    """Measure plans; returns the layer-forwards that were run."""
    run = 0.0
    for line in crew.measure("search", list(dict.fromkeys(plans)), known):
        known.add(line)
        run += line.layer_forwards
    return run


def loss_of(known: Measurements, plan: PrunePlan) -> float:
    """The mean loss of a plan that was measured."""
    return float(known.rows("search", plan, "loss").mean())


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def side_by_side(evaluators: Sequence[Evaluator], call: Callable[[Evaluator], object], repeats: int) -> float:
    """Seconds of a call while every evaluator makes it, as in a search; the slowest of them counts."""
    seconds: list[float] = []
    ready = threading.Barrier(len(evaluators))

    def work(evaluator: Evaluator) -> None:
        with torch.inference_mode(), one_core():
            call(evaluator)
            synchronize()
            ready.wait()
            started = time.perf_counter()
            for _ in range(repeats):
                call(evaluator)
            synchronize()
            seconds.append((time.perf_counter() - started) / repeats)

    with one_core():
        threads = [threading.Thread(target=work, args=(evaluator,)) for evaluator in evaluators]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return max(seconds)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "processor": name,
        "amx_bf16": bool(capabilities.get("amx_bf16")),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def report(name: str, title: str, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    """Print rows as a table, and write them with the machine to `benchmarks/results/NAME.json`."""
    console = Console(width=200)
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    console.print(table)
    for key, value in more.items():
        console.print(f"{key}: {_shown(value)}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"title": title, "machine": machine(), **more, "rows": list(rows)}, indent=2) + "\n")
    console.print(f"Written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
