"""What there is: strategies, objectives, healings and runs."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from searcher.contracts import registry
from searcher.contracts.cost import Prices
from searcher.contracts.forecast import forecast
from searcher.contracts.ledger import Ledger, Limits
from searcher.contracts.plan import Granularity
from searcher.contracts.statistics import cost_of
from searcher.contracts.strategy import Strategy
from searcher.contracts.tariff import Tariff
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.defaults import default_amounts
from searcher.runs.journal import RUN_FILE
from searcher.runs.options import make_config
from searcher.runs.run_file import read_run_file
from searcher.search.opening import open_space

ASSUMED = Prices((1.0, 0.7, 0.3, 0.0), 1.0)
"""Where there is no model yet: attention takes three tenths of a block, as in Llama."""
WINDOWS = default_amounts("cpu")["windows"]
"""In plans on so many windows costs are told, whatever the strategy looks at."""

HEADINGS: dict[registry.Kind, tuple[str, ...]] = {
    "strategy": ("", ""),
    "objective": ("objective", "better", "unit", "what it measures"),
    "healing": ("healing", "fitted to", "what it does"),
}


def plugin_lines(kind: registry.Kind, verbose: bool) -> Iterator[Table | str]:
    """The strategies, objectives or healings, a line each; verbose: their whole documentation and options."""
    if not verbose:
        table = Table(box=None, show_header=kind != "strategy", pad_edge=False)
        for column in HEADINGS[kind]:
            table.add_column(column, style="bold" if not table.columns else None)
        for name in registry.names(kind):
            cls = registry.find(kind, name)
            table.add_row(name, *_properties(kind, cls), (inspect.getdoc(cls) or "").split("\n")[0])
        yield table
        return
    for name, place in registry.names(kind).items():
        cls = registry.find(kind, name)
        yield "  ".join([f"[b]{name}[/b]  ({place})", *_properties(kind, cls)])
        yield _indented(inspect.getdoc(cls) or "")
        for option in registry.options(cls):
            given = f"--heal {name}:" if kind == "healing" else f"--{kind}-arg "
            yield f"    {given}{option.name}=…  {option.type}, default {option.default}".replace("[", r"\[")
        yield ""


def _properties(kind: registry.Kind, cls: Any) -> tuple[str, ...]:
    """Direction and unit of an objective, what a healing is fitted to; nothing for a strategy."""
    if kind == "healing":
        return ({"unit": "each unit", "gap": "each gap", "plan": "a whole plan"}[cls.scope],)
    if kind == "strategy":
        return ()
    return ("lower" if cls.lower_is_better else "higher"), cls.unit


def costs_table(budget: str, granularity: Granularity, blocks: int) -> Table:
    """What each strategy would be charged for this budget with its default options, for a model of so many blocks.

    Raises:
        UsageError: the budget does not fit.
    """
    config = make_config(RunConfig, {"budget": budget, "granularity": granularity})
    units = open_space(config, blocks, WINDOWS).units
    table = Table(title=f"To remove {budget} of {len(units)} units", title_justify="left")
    for column in ("strategy", "plans", "layer-forwards a window", "heads a window"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for name in registry.names("strategy"):
        table.add_row(name, *_costs(registry.make("strategy", name, {}), config, blocks))
    table.caption = (
        f"Forecast by playing each search against made-up scores, in plans on {WINDOWS} windows; what it finds may "
        "take more or fewer. Statistics of the dense model count as the plans that would cost as much."
    )
    return table


def _costs(strategy: Strategy, config: RunConfig, blocks: int) -> tuple[str, str, str]:
    windows = default_amounts("cpu", strategy.fresh)["windows"]
    space = open_space(config, blocks, windows)
    tariff = Tariff(blocks, ASSUMED, windows, 1, 1.0, 0.0, 1.0, 0.0)
    ledger = Ledger(tariff, Limits())
    ledger.charge_statistics(*cost_of(strategy.statistics, space.units, space.num_blocks, tariff.prices.weight))
    try:
        found = forecast(strategy, space, ledger, seconds=5.0)
    except UsageError as error:  # too many plans for an exhaustive search, say
        return error.message, "", ""
    more = "" if found.complete else "> "
    cost = found.cost
    amounts = (cost.evaluations * windows / WINDOWS, cost.layer_forwards / WINDOWS, cost.heads / WINDOWS)
    plans, forwards, heads = (f"{more}{amount:,.0f}" for amount in amounts)
    return plans, forwards, heads


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.replace("[", r"\[").splitlines())


def run_lines(runs_dir: Path) -> Iterator[Table | str]:
    """The runs below a folder, with the plan each ended with."""
    folders = sorted(path.parent for path in runs_dir.glob(f"*/{RUN_FILE}"))
    if not folders:
        yield f"No runs in {runs_dir}"
        return
    table = Table("run", "model", "strategy", "budget", "plan", box=None, pad_edge=False)
    for folder in folders:
        try:
            record = read_run_file(folder)
            config, outcome = record["config"], record.get("outcome")
            plan = outcome["chosen"].get(str(outcome["size"]), "-") if outcome else "not finished"
            table.add_row(folder.name, record["model"], config["strategy"], config["budget"], plan)
        except UsageError as error:
            table.add_row(folder.name, escape(f"damaged: {error.message}"))
    yield table
