"""Tables for the terminal."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from results.run import Estimate, Evaluation, Run

PIPED_WIDTH = 160
"""Columns where stdout is no terminal, so that plans are not broken over lines."""


def show(*items: Any) -> None:
    """Print tables and lines on stdout."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    for item in items:
        console.print(item)


def run_table(run: Run) -> Table:
    """The dense model and the front, with intervals on the report split."""
    identity = run.record["identity"]
    title = f"{run.record['model']} on {run.record['text']}, {run.config.strategy}, {identity['dtype']}"
    table = Table(title=title, caption=_caption(run), title_justify="left", caption_justify="left")
    table.add_column("size", justify="right")
    table.add_column("plan", overflow="fold")
    for name in run.objectives:
        table.add_column(f"search {name}", justify="right")
        table.add_column(f"report {name} (95% interval)", justify="right")
        table.add_column("to dense", justify="right")
    for evaluation in (run.dense, *run.front()):
        best = evaluation is run.best or evaluation.plan == run.best.plan
        table.add_row(*_cells(run, evaluation), style="bold" if best else None)
    return table


def _cells(run: Run, evaluation: Evaluation) -> list[str]:
    cells = [str(evaluation.size), str(evaluation.plan)]
    for name, report in evaluation.report.items():
        dense = run.dense.report[name].value
        cells += [_number(evaluation.search[name]), _estimate(report), f"{report.value / dense:.2f}x" if dense else "-"]
    return cells


def _estimate(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return _number(estimate.value)
    return f"{_number(estimate.value)} ({_number(estimate.low)} to {_number(estimate.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _caption(run: Run) -> str:
    identity, cost = run.record["identity"], run.outcome["cost"]
    charged, executed = cost["charged"], cost["executed"]
    tokens = identity["window_tokens"]
    lines = [
        f"Chosen on {identity['windows']} search windows, judged on {identity['report_windows']} report windows, "
        f"{tokens} tokens each.",
        f"Search: {charged['evaluations']:g} plans, {charged['layer_forwards']:,.0f} layer-forwards and "
        f"{charged['heads']:,.0f} heads over one window, cost {charged['total']:,.0f} "
        f"(run here: {executed['total']:,.0f}), {cost['seconds']:.0f} s.",
    ]
    if run.outcome["stopped"]:
        lines.append(f"Stopped early: {run.outcome['stopped']}.")
    return "\n".join(lines)


def evaluations_table(document: dict[str, Any], split: str) -> Table:
    """The plans of `searcher evaluate`, in the order asked."""
    evaluations = document["evaluations"]
    table = Table(title=f"Measured on the {split} split", title_justify="left")
    table.add_column("size", justify="right")
    table.add_column("plan", overflow="fold")
    for name in evaluations[0]["values"]:
        table.add_column(name, justify="right")
    for entry in evaluations:
        table.add_row(str(entry["size"]), entry["plan"], *(_number(v) for v in entry["values"].values()))
    return table
