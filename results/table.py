"""Tables for the terminal."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from results.by_text import OneText, by_text
from results.finished_run import Estimate, Evaluation, FinishedRun
from results.precision import precision

if TYPE_CHECKING:
    from searcher.checkpoint.exported import Exported
from searcher.runs.layout import PLAN_GROUP
from searcher.runs.stdout import result_stream

PIPED_WIDTH = 160
"""Columns where stdout is no terminal, so that plans are not broken over lines."""


def make_console() -> Console:
    """Writes to stdout, as wide as the terminal."""
    stream = result_stream()
    return Console(file=stream, highlight=False, width=None if stream.isatty() else PIPED_WIDTH)


def show(*items: Any) -> None:
    """Print tables and lines on stdout."""
    console = make_console()
    for item in items:
        console.print(item, soft_wrap=isinstance(item, str))


def run_lines(run: FinishedRun) -> Iterator[Table | str]:
    """The outcome of a run: what was searched on what, the chosen plans, what it cost."""
    identity = run.record["identity"]
    yield escape(f"{run.record['model']} in {precision(identity)} on {run.record['text']}")
    config = run.config
    strategy = identity.get("strategy", config.strategy)  # a plug-in by the name of its file, wherever that is
    yield escape(f"strategy {strategy}, granularity {config.granularity}, budget {config.budget}")
    yield _sizes_table(run)
    if (texts := by_text(run)) and texts[0].dense:
        yield _texts_table(run, texts)
    yield from map(escape, footnotes(run))


def _sizes_table(run: FinishedRun) -> Table:
    """The dense model and the chosen plan of each size, with intervals on the report split."""
    table = Table()
    for column in plan_columns(run):
        if column.kind == "plan":
            table.add_column(column.heading, overflow="fold")
        else:
            table.add_column(column.heading, justify="right")
    for evaluation in (run.dense, *shown_plans(run)):
        table.add_row(*plan_cells(run, evaluation), style="bold" if evaluation.plan == run.best.plan else None)
    return table


def _texts_table(run: FinishedRun, texts: Sequence[OneText]) -> Table:
    """The chosen plan of the full size and the dense model on the report windows of each text."""
    table = Table(title=f"Plan {run.best.plan} by text, on the report windows", title_justify="left")
    table.add_column("text", overflow="fold")
    table.add_column("windows", justify="right")
    for name in texts[0].dense:
        for heading in (f"dense {name}", f"{name} (95% interval)", "to dense"):
            table.add_column(heading, justify="right")
        if texts[0].healed:
            table.add_column(f"healed {name}", justify="right")
    for text in texts:
        cells = [escape(text.name), str(text.windows)]
        for name, dense in text.dense.items():
            best = text.best[name]
            cells += [number(dense.value), estimate(best), times(best.value, dense.value)]
            cells += [estimate(text.healed[name])] if text.healed else []
        table.add_row(*cells)
    return table


class Column(NamedTuple):
    """A column of a table of plans: what is in it, of which objective (if it is of one), and what stands above."""

    kind: Literal["size", "plan", "search", "report", "ratio", "healed"]
    objective: str
    heading: str


def plan_columns(run: FinishedRun) -> list[Column]:
    """The columns of a table of plans; what follows from the plan alone is only under `report`."""
    columns = [Column("size", "", "size"), Column("plan", "", "plan")]
    for name in run.objectives:
        if _follows_from_plan(run, name):  # on whatever text
            columns.append(Column("report", name, name))
        else:
            columns.append(Column("search", name, f"search {name}"))
            columns.append(Column("report", name, f"report {name} (95% interval)"))
        columns.append(Column("ratio", name, "to dense"))
        if run.dense.healed and not _follows_from_plan(run, name):
            columns.append(Column("healed", name, f"healed report {name}"))
    return columns


def _follows_from_plan(run: FinishedRun, name: str) -> bool:
    """Whether the value is the same on whatever text."""
    groups = run.measurements.layout["report"]
    read_together = any(group.name == PLAN_GROUP and name in group.objectives for group in groups)
    return read_together and run.objectives[name].repeatable


def shown_plans(run: FinishedRun) -> tuple[Evaluation, ...]:
    """The chosen plans; with several objectives also the others on the front, by size."""
    return tuple(sorted({e.plan: e for e in (*run.chosen, *run.front())}.values(), key=lambda e: (e.size, e.plan)))


def plan_cells(run: FinishedRun, evaluation: Evaluation) -> list[str]:
    """What a table of plans says of one, a text for each of its columns."""
    cells = [str(evaluation.size), str(evaluation.plan)]
    for name, plain in evaluation.report.items():
        fixed = _follows_from_plan(run, name)
        report = evaluation.healed.report[name] if fixed and evaluation.healed else plain
        dense = run.dense.report[name].value
        shown = times(report.value, dense)
        cells += [number(report.value), shown] if fixed else [number(evaluation.search[name]), estimate(report), shown]
        if run.dense.healed and not fixed:
            cells.append(estimate(evaluation.healed.report[name]) if evaluation.healed else "")
    return cells


def times(value: float, dense: float) -> str:
    """How many times the dense model's value it is: 1.27x; a dash where that says nothing."""
    ratio = value / dense if dense else math.nan
    return f"{ratio:.2f}x" if math.isfinite(ratio) else "-"


def estimate(found: Estimate) -> str:
    """A value with its interval: 62.51 (46.32 to 83.34)."""
    if found.low is None or found.high is None:
        return number(found.value)
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


def number(value: float) -> str:
    """A value with four digits: 23.62, 12,345, 99.11M."""
    if 1e6 <= abs(value) < 1e15:
        power = int(math.log10(abs(value)) // 3)
        return f"{value / 1000**power:.4g}{' kMGT'[power]}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"


def _front_lines(run: FinishedRun) -> Iterator[str]:
    front = run.front()
    if len(run.config.searched) > 1:
        goals = ", ".join(run.config.searched)
        yield f"{len(front)} measured plans are on the Pareto front of {goals}: no other beats them in all of these."
    elif beaten := [str(e.size) for e in run.chosen if e not in front]:
        yield f"Size {', '.join(beaten)} is not on the Pareto front: removing more scored better."


def footnotes(run: FinishedRun) -> Iterator[str]:
    """What a reader of the table should know: the windows, the cost, what the strategy has learnt, how it ended."""
    identity, cost = run.record["identity"], run.outcome["cost"]
    charged, executed = cost["charged"], cost["executed"]
    yield (
        f"Chosen on {identity['windows']} search windows, judged on {identity['report_windows']} report windows, "
        f"of {identity['window_tokens']} tokens."
    )
    yield from _texts_lines(run)
    yield (
        f"The search was charged {charged['evaluations']:g} plans, {charged['layer_forwards']:,.0f} layer-forwards and "
        f"{charged['heads']:,.0f} heads over a window: cost {charged['total']:,.0f} (run: {executed['total']:,.0f}) "
        f"in {cost['seconds']:.0f} s."
    )
    yield from _charges_lines(run)
    yield from _healing_lines(run)
    yield from run.outcome["notes"].get("summary", [])
    yield from _front_lines(run)
    if missed := run.outcome.get("missed"):
        size = run.outcome["size"]
        yield f"No measured plan of {size} units keeps to {' and '.join(missed)}; the chosen one comes nearest."
    if run.outcome["stopped"]:
        yield f"Stopped early: {run.outcome['stopped']}."
    if not run.outcome["repeatable"]:
        yield "Another run may end otherwise: it depended on time, or on a device that rounds differently every time."
    yield f"Kept in {run.folder}"


def _texts_lines(run: FinishedRun) -> Iterator[str]:
    """How several texts were put together."""
    if len(run.text_names) > 1:
        by = (
            "by its worst text: the largest rise of the score over the dense model's"
            if run.config.robust == "worst"
            else "by the mean over all of them"
        )
        yield f"The windows are shared evenly over {len(run.text_names)} texts; a plan was scored {by}."


WHAT_COSTS = {
    "screening": "screening",
    "preparing": "what objectives look up in the dense model",
    "statistics": "statistics of the dense model",
    "healing": "healing before the first plan",
    "rounds": "shorter healing of the best plans before, at most",
    "shortlist": "healing of the best plans, at most",
}
"""What is charged besides plans that are measured, for a reader."""


def _charges_lines(run: FinishedRun) -> Iterator[str]:
    """What of the cost measured no plan; runs of older versions have not kept it."""
    charges = run.outcome.get("charges", {})
    told = [
        f"{words} {charges[part]['evaluations']:.3g} (cost {charges[part]['total']:,.0f})"
        for part, words in WHAT_COSTS.items()
        if part in charges and charges[part]["total"]
    ]
    if told:
        yield f"Among these, counted as the plans that would cost as much: {', '.join(told)}."


def _healing_lines(run: FinishedRun) -> Iterator[str]:
    """How plans were healed, and what that took."""
    if run.config.heal is None:
        return
    of = run.record.get("heal_text", "the heal split")
    windows = f"{run.record['identity']['heal_windows']} windows of {of}"
    healing = run.outcome["cost"].get("healing")
    if healing is None:
        yield f"Every plan was measured after healing by {run.config.heal}, fitted on {windows}."
        return
    if run.config.heal_final is not None:
        yield f"Plans were searched for after healing by {run.config.heal}; all columns but healed ones are with it."
    count = len({plan for plans in run.outcome["shortlists"].values() for plan in plans})
    if not count:
        yield f"No plan was healed by {run.config.healed_by}: the limit left no room. They were chosen without."
        return
    work = f"{healing['layer_forwards']:,.0f} layer-forwards and {healing['heads']:,.0f} heads"
    counted = "" if "shortlist" in run.outcome.get("charges", {}) else ", which no limit counts"
    plans = "plan" if count == 1 else "plans"
    yield (
        f"Chosen among {count} {plans} healed by {run.config.healed_by} on {windows}, with the "
        f"dense model as a control: {work} in {healing['seconds']:.0f} s{counted}."
    )
    yield from _rounds_lines(run)
    if left_out := run.outcome.get("left_out"):
        yield f"{left_out} more of the best plans were not healed: the limit left no room."


def _rounds_lines(run: FinishedRun) -> Iterator[str]:
    """What each round of healing did, where there were several; values of different rounds are not compared."""
    rounds = run.outcome.get("rounds", [])
    for number, one in enumerate(rounds, start=1):
        count = sum(map(len, one["healed"].values()))
        steps = one["steps"]
        length = f"{one['share']:g} of the work" if steps is None else f"{steps} step{'s' * (steps > 1)}"
        yield (
            f"Round {number} of {len(rounds)}: {count} {'plan' if count == 1 else 'plans'} healed by {length} each, "
            f"charged {one['charged']['evaluations']:.3g} plans (cost {one['charged']['total']:,.0f}), in "
            f"{one['run']['seconds']:.0f} s."
        )
        for size, plans in one["dropped"].items():
            yield f"Dropped after it, of size {size}: {'; '.join(plans)}."
    if rounds and len(rounds) < run.config.heal_rounds:
        yield f"{run.config.heal_rounds} rounds were asked for, but no size had as many plans to halve."


def export_lines(exported: "Exported") -> Iterator[str]:
    """What was written, and what it takes."""
    from searcher.checkpoint.card import describe_check

    dense, left = exported.parameters
    yield escape(f"Plan {exported.plan} in {exported.folder} (form {exported.form}, {exported.bytes / 1e6:,.1f} MB)")
    yield f"{left:,} of {dense:,} parameters ({left / dense:.1%})"
    if exported.cache is not None:
        before, after = exported.cache
        yield f"{after:,.0f} of {before:,.0f} bytes of key-value cache a token ({after / before:.1%})"
    yield f"Weights in {exported.dtype}, {exported.precision}"
    if exported.verified is not None:
        yield describe_check(exported.verified)


def evaluations_table(document: dict[str, Any], split: str) -> Table:
    """The plans of `searcher evaluate`, in the order asked."""
    evaluations = document["evaluations"]
    table = Table(title=f"Measured on the {split} split", title_justify="left")
    table.add_column("size", justify="right")
    table.add_column("plan", overflow="fold")
    for name in evaluations[0]["values"]:
        table.add_column(name, justify="right")
    for entry in evaluations:
        table.add_row(str(entry["size"]), entry["plan"], *(number(v) for v in entry["values"].values()))
    return table
