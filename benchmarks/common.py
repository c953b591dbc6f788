"""What the benchmarks share: the model opened for measuring, the machine described, a table printed and written."""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.setting import Setting
from objectives.loss import Loss
from searcher.architecture.devices import computes_on_cpu, name_of, seen
from searcher.contracts.cost import Prices
from searcher.contracts.objective import Split
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.evaluation.evaluator import Evaluator
from searcher.evaluation.executor import Executor, one_core
from searcher.evaluation.open_executor import open_executor
from searcher.evaluation.ray_executor import AnyExecutor
from searcher.loading.model import LoadedModel, load_model
from searcher.loading.text import load_text
from searcher.loading.windows import cut_windows
from searcher.replay.relative_flops import measure_prices
from searcher.replay.replay import Replay
from searcher.replay.self_check import open_replay
from searcher.runs.measurement import Measurements


@dataclass(frozen=True, eq=False)
class Opened:
    """A model and its search windows.

    Attributes:
        loaded: the model with its tokenizer.
        replay: of the model, checked for a granularity.
        prices: relative FLOPs of its parts.
        ids: int64 (windows, tokens).
    """

    loaded: LoadedModel
    replay: Replay
    prices: Prices
    ids: Tensor

    @property
    def dtype(self) -> str:
        """Of the weights, by its short name."""
        return str(self.loaded.dtype).removeprefix("torch.")

    @property
    def kind(self) -> str:
        """Device and dtype, as names of files have them."""
        return f"{self.loaded.device.type}-{self.dtype}"

    @property
    def described(self) -> str:
        """Model, dtype and text, as titles have them."""
        return f"{self.loaded.name}, {self.dtype}, {len(self.ids)} windows of {self.ids.shape[1]} tokens"

    def at(self, granularity: Granularity) -> "Opened":
        """The same model, checked for another granularity."""
        return opened(self.loaded, self.ids, granularity)

    def executor(self) -> Executor:
        """A new executor, which keeps nothing yet."""
        windows: dict[Split, Tensor] = {"search": self.ids}
        with torch.inference_mode():
            return open_executor(self.replay, {"loss": Loss()}, windows, self.loaded.tokenizer, self.prices)

    def at_work(self) -> tuple[list[Evaluator], Tensor]:
        """An evaluator for each core, or for the GPU, as the threads of an executor have them, and what each runs at a
        time: int64 (windows, tokens)."""
        executor = self.executor()
        cores = torch.get_num_threads() if computes_on_cpu(self.loaded.device) else 1
        colleagues = [executor.evaluator.colleague() for _ in range(cores - 1)]
        return [executor.evaluator, *colleagues], executor.groups["search"][0].ids.to(self.loaded.device)


def open_model(setting: Setting) -> Opened:
    """The model of a setting with search windows of its text; whole blocks can be removed.

    Raises:
        UsageError: there is no such model or text, or it is too short.
    """
    loaded = load_model(setting.model, dtype=setting.dtype, device=setting.device)
    text = load_text(setting.data).search
    ids = cut_windows(
        text, loaded.tokenizer, tokens=setting.window_tokens, count=setting.windows, split="search", seed=0
    ).ids
    return opened(loaded, ids, Granularity.BLOCK)


def opened(loaded: LoadedModel, ids: Tensor, granularity: Granularity) -> Opened:
    """A model that is loaded already."""
    with torch.inference_mode():
        replay = open_replay(loaded.model, granularity)
        return Opened(loaded, replay, measure_prices(replay, ids.shape[1]), ids)


def measure(
    executor: AnyExecutor,
    plans: Sequence[PrunePlan],
    known: Measurements,
    done: Callable[[float], None] = lambda _: None,
) -> float:
    """Measure plans; returns the layer-forwards that were run. `done` is told what part of a plan has been measured."""
    run, groups = 0.0, len(executor.groups["search"])
    for line in executor.measure("search", list(dict.fromkeys(plans)), known):
        known.add(line)
        run += line.layer_forwards
        done(1 / groups)
    return run


def loss_of(known: Measurements, plan: PrunePlan) -> float:
    """The mean loss of a plan that was measured."""
    return float(known.rows("search", plan, "loss").mean())


def synchronize() -> None:
    """Wait for the accelerators, if there are any."""
    if torch.accelerator.is_available():
        for index in range(torch.accelerator.device_count()):
            torch.accelerator.synchronize(index)


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
    kind, count = seen()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "processor": name,
        "amx_bf16": bool(capabilities.get("amx_bf16")),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": name_of(torch.device(kind, 0)) if count else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def report(setting: Setting, name: str, title: str, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    """Print rows as a table, and write them with machine and date to `NAME.json`, if the setting has a place for it."""
    console = Console(width=200)
    table = Table()
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*map(shown, row.values()))
    console.print(title, table, sep="\n", markup=False)
    for key, value in more.items():
        console.print(f"{key}: {shown(value)}")
    figures = {"title": title, "date": str(date.today()), "machine": machine(), **more, "rows": list(rows)}
    write_figures(setting, name, figures)


def write_figures(setting: Setting, name: str, figures: dict[str, Any]) -> None:
    """Write `NAME.json`, if the setting has a place for it."""
    if setting.out is None:
        return
    setting.out.mkdir(parents=True, exist_ok=True)
    path = setting.out / f"{name}.json"
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    Console(stderr=True, soft_wrap=True).print(f"Written to {path}", markup=False)


def shown(value: Any) -> str:
    """A figure in a table."""
    return f"{value:,.4g}" if isinstance(value, float) else "" if value is None else str(value)
