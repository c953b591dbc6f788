"""A comparison for the terminal."""

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from results.comparison import Comparison, Entry, Section, SizeComparison, cost_lines, show_gap
from results.joint_front import joint_front
from results.labels import setting, windows
from results.table import number
from searcher.plan import PrunePlan


def comparison_lines(comparison: Comparison) -> Iterator[Table | str]:
    """What is compared, a table and a verdict for each granularity and size, what it cost, the front of all."""
    first = comparison.runs[0]
    yield escape(setting(first))
    yield (
        f"By {comparison.objective}: plans chosen on {windows(first, 'search')}, judged on {windows(first, 'report')}. "
        "Each interval holds with 95% by itself, not all of them together."
    )
    yield from comparison.notes
    for section in comparison.sections:
        yield _table(comparison, section)
        for size in section.sizes:
            yield f"Size {size.size}: {escape(size.verdict)}{_difference(size)}"
            if size.optimum is not None:
                yield _optimum(section, size)
    yield _costs(comparison)
    yield from _front(comparison)


def _table(comparison: Comparison, section: Section) -> Table:
    name = comparison.objective
    table = Table(title=f"Granularity {section.granularity}, against {section.label}", title_justify="left")
    for column in ("size", "run", "plan", f"search {name}", "gap", f"report {name}", "gap (95% interval)"):
        text = column in ("run", "plan")
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    for size in section.sizes:
        for position, entry in enumerate(size.entries):
            table.add_row(
                str(size.size) if position == 0 else "",
                *_cells(name, entry, is_reference=position == 0),
                style="bold" if entry.better else None,
                end_section=position == len(size.entries) - 1,
            )
    return table


def _cells(name: str, entry: Entry, is_reference: bool) -> list[str]:
    values = number(entry.evaluation.search[name]), number(entry.evaluation.report[name].value)
    if is_reference:
        gaps = "reference", ""
    else:
        gaps = ("same plan", "") if entry.same else (show_gap(entry.search_gap), show_gap(entry.report_gap))
    return [escape(entry.label), str(entry.evaluation.plan), values[0], gaps[0], values[1], gaps[1]]


def _difference(size: SizeComparison) -> str:
    """Which units the best plan keeps that the reference removes, if it is better."""
    if size.best is None:
        return ""
    return f" It keeps {PrunePlan.of(size.best.kept)} and removes {PrunePlan.of(size.best.removed)} instead."


def _optimum(section: Section, size: SizeComparison) -> str:
    assert size.optimum is not None
    found = f"Size {size.size}: {size.optimum.plan} is the optimum of all {size.optimum.plans:,} plans (certified)"
    if abs(size.optimum.gap.value) < 1e-12:
        return f"{found}, and {section.label} found it or its equal."
    return f"{found}, {show_gap(size.optimum.gap)} against {section.label}."


def _costs(comparison: Comparison) -> Table:
    table = Table(title="What it cost", title_justify="left")
    for column in ("run", "plans charged", "cost charged", "seconds"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for run, plans, cost, seconds in cost_lines(comparison.runs):
        table.add_row(escape(comparison.labels[run.folder]), f"{plans:,.0f}", f"{cost:,.0f}", f"{seconds:.0f}")
    table.caption = "Cost in layer-forward equivalents per 1,000 tokens; seconds without what other runs had measured."
    table.caption_justify = "left"
    return table


def _front(comparison: Comparison) -> Iterator[Table | str]:
    """The chosen plans of all runs on one front."""
    front = joint_front(comparison.runs, comparison.objective)
    if front is None:
        return
    table = Table(title=f"One front of {front.axes[0]} and {front.axes[1]}, all runs together", title_justify="left")
    for column in (front.axes[0], front.axes[1], "run", "plan"):
        text = column in ("run", "plan")
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    for point in front.points:
        names = ", ".join(comparison.labels[run.folder] for run in point.runs)
        table.add_row(*map(number, point.values), escape(names), str(point.plan))
    yield table
    shares = ", ".join(f"{comparison.labels[run.folder]} {share:.3f}" for run, share in front.hypervolumes)
    yield (
        f"Hypervolume, as a share of that of all runs together ({shares}): the area between the points and the worst "
        f"value of each axis, {number(front.worst[0])} and {number(front.worst[1])}."
    )
