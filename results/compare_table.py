"""A comparison for the terminal."""

from collections.abc import Iterator, Sequence
from functools import partial

from rich.markup import escape
from rich.table import Table

from results.compared_runs import ComparedRuns
from results.finished_run import FinishedRun
from results.joint_front import JointFront
from results.labels import setting, windows
from results.methods import MethodGap
from results.side_by_side import Entry, Section, SizeComparison, alike, show_gap, show_search_gap
from results.table import number
from searcher.contracts.plan import PrunePlan
from searcher.runs.clusters import count_clusters

ROOMY = 120
"""Columns from which on a gap stands beside its value; below, it goes under it."""

TESTED = " p is that of McNemar's exact test."


def comparison_lines(comparison: ComparedRuns, width: int) -> Iterator[Table | str]:
    """What is compared, a table and the verdicts for each granularity, what it cost, the front of all.

    Args:
        comparison: of runs.
        width: columns of the terminal.
    """
    first, name = comparison.runs[0], comparison.objective
    better = "lower" if first.objectives[name].lower_is_better else "higher"
    documents = first.documents("report", name)
    clusters = "" if documents is None else f" from {count_clusters(documents)} documents"
    yield escape(setting(first))
    yield (
        f"By {escape(name)}, {better} is better. Plans were chosen on {windows(first, 'search')} and judged on "
        f"{windows(first, 'report')}{clusters}."
    )
    yield from map(escape, comparison.notes)
    for section in comparison.sections:
        if section.sizes:
            yield _gaps(comparison, section, width >= ROOMY)
        yield from map(escape, _conclusions(section))
    if comparison.sections:
        yield (
            "Gaps are to the plan of the reference: exact on the search windows, but for rounding in "
            f"{first.record['identity']['dtype']}, which explains those marked so; in pairs on the report windows, "
            "with intervals that each hold with 95% by themselves, not all together."
            f"{TESTED if _tested(comparison) else ''}"
        )
    if comparison.methods:
        yield from _methods(comparison.methods)
    yield _costs(comparison)
    front = comparison.front()
    if front is not None:
        yield from _front(comparison, front, width >= ROOMY)


def _tested(comparison: ComparedRuns) -> bool:
    """Whether items are each right or wrong, so that gaps have a p."""
    entries = (entry for section in comparison.sections for size in section.sizes for entry in size.entries)
    return any(entry.report_gap.p is not None for entry in entries)


def _gaps(comparison: ComparedRuns, section: Section, roomy: bool) -> Table:
    """A row for each plan that was chosen; those of a size together, the reference's first."""
    name = escape(comparison.objective)
    table = Table(title=f"Granularity {section.granularity}, against {escape(section.label)}", title_justify="left")
    numbers = (f"search\n{name}", "gap", f"report\n{name}", "gap (95% interval)")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("run", max_width=28 if roomy else 14)
    for heading in numbers if roomy else (f"search\n{name}\ngap", f"report\n{name}\ngap"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("plan")
    for size in section.sizes:
        found = _by_plan(size, comparison.objective)
        for position, entries in enumerate(found):
            cells = _numbers(comparison.objective, entries[0])
            if not roomy:
                cells = ["\n".join(cells[:2]).strip(), "\n".join(cells[2:]).replace(" (", "\n(").strip()]
            table.add_row(
                str(size.size) if position == 0 else "",
                escape(", ".join(entry.label for entry in entries)),
                *cells,
                _spaced(entries[0].evaluation.plan),
                style="bold" if entries[0].better else None,
                end_section=position == len(found) - 1,
            )
    return table


def _by_plan(size: SizeComparison, name: str) -> list[list[Entry]]:
    """Those that chose the same plan on the same windows together."""
    found: dict[tuple[PrunePlan, float], list[Entry]] = {}
    for entry in size.entries:  # on other windows the plan has another score
        found.setdefault((entry.evaluation.plan, entry.evaluation.search[name]), []).append(entry)
    return list(found.values())


def _numbers(name: str, entry: Entry) -> list[str]:
    """Value and gap on the search split, and on the report split."""
    gaps = show_search_gap(entry), show_gap(entry.report_gap)
    if entry.same:
        gaps = ("reference", "") if entry.search_gap is not None else (gaps[0], "same plan")
    return [number(entry.evaluation.search[name]), gaps[0], number(entry.evaluation.report[name].value), gaps[1]]


def _spaced(plan: PrunePlan) -> str:
    """With spaces, at which the lines of a narrow table break."""
    return str(plan).replace(",", ", ")


def _conclusions(section: Section) -> Iterator[str]:
    """The verdict for each size; sizes in a row that share it, and of which no more is known, share a line."""
    for sizes, conclusion in alike(section, partial(_conclusion, section)):
        name = f"Size {sizes[0]}" if len(sizes) == 1 else f"Sizes {sizes[0]} to {sizes[-1]}"
        yield f"{name}: {conclusion}"


def _conclusion(section: Section, size: SizeComparison) -> str:
    return f"{size.verdict}{_difference(size)}{_optimum(section, size)}"


def _difference(size: SizeComparison) -> str:
    """Which units the best plan keeps that the reference removes, if it is better."""
    if size.best is None:
        return ""
    return f" It keeps {PrunePlan.of(size.best.kept)} and removes {PrunePlan.of(size.best.removed)} instead."


def _optimum(section: Section, size: SizeComparison) -> str:
    if size.optimum is None:
        return ""
    space = "plans of this size" if size.optimum.whole else "plans that an exhaustive run had to choose from"
    found = f" {size.optimum.plan} is the optimum of all {size.optimum.plans:,} {space} (certified)"
    if abs(size.optimum.gap.value) < 1e-12:
        return f"{found}, and {section.label} found it or its equal."
    explained = ": within rounding" if size.optimum.rounded else ""
    return f"{found}, {show_gap(size.optimum.gap)} against {section.label}{explained}."


def _methods(methods: Sequence[MethodGap]) -> Iterator[Table | str]:
    """What the searches do, not just their plans: over several choices of search windows."""
    table = Table(title="By method, over choices of search windows", title_justify="left")
    for column in ("size", "method", "against", "data seeds", "report gap (95% interval)"):
        table.add_column(column, justify="left" if column in ("method", "against") else "right")
    for one in methods:
        seeds = ", ".join(map(str, one.data_seeds))
        table.add_row(str(one.size), escape(one.method), escape(one.reference), seeds, show_gap(one.gap))
    yield table
    yield (
        "The gaps above are of these plans. Those by method are of the searches that found them: their intervals take "
        "the choice of search windows as chance, besides the documents, and need three data seeds."
    )


def _costs(comparison: ComparedRuns) -> Table:
    table = Table(title="What it cost", title_justify="left")
    for column in ("run", "plans charged", "cost charged", "seconds"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for run in comparison.runs:
        cost = run.outcome["cost"]
        charged = cost["charged"]
        cells = f"{charged['evaluations']:,.0f}", f"{charged['total']:,.0f}", f"{cost['seconds']:.0f}"
        table.add_row(_label(comparison, run), *cells)
    table.caption = "Cost in layer-forward equivalents per 1,000 tokens; seconds without what other runs had measured."
    table.caption_justify = "left"
    return table


def _front(comparison: ComparedRuns, front: JointFront, roomy: bool) -> Iterator[Table | str]:
    """The chosen plans of all runs on one front."""
    table = Table(title=f"One front of {escape(' and '.join(front.axes))}, all runs together", title_justify="left")
    for column in front.axes:
        table.add_column(escape(column), justify="right", no_wrap=True)
    table.add_column("run", max_width=28 if roomy else 14)
    table.add_column("plan")
    for point in front.points:
        names = ", ".join(_label(comparison, run) for run in point.runs)
        table.add_row(*map(number, point.values), names, _spaced(point.plan))
    yield table
    yield _hypervolumes(comparison, front)


def _hypervolumes(comparison: ComparedRuns, front: JointFront) -> str:
    """How good each run's plans are together, and between which ends that is measured."""
    named = list(zip(map(escape, front.axes), front.bounds, strict=True))
    if unbound := [name for name, bound in named if bound is None]:
        return f"No hypervolume: the dense model does not bound {' and '.join(unbound)}."
    shares = ", ".join(f"{_label(comparison, run)} {share:.3f}" for run, share in front.hypervolumes)
    ends = "; ".join(f"{name} {number(bound.worst)}, {bound.told}" for name, bound in named if bound)
    best = "; ".join(f"{name} {number(bound.best)}" for name, bound in named if bound)
    logs = f" Of {escape(' and '.join(front.logarithmic))} the logarithm is taken." if front.logarithmic else ""
    sizes = {tuple(e.size for e in run.chosen) for run in comparison.runs}
    fewer = " A run that asked for fewer sizes has less of it." if len(sizes) > 1 else ""
    return (
        f"Hypervolume on the search windows: {shares}. It ends at {ends}: a plan beyond adds nothing. 1 would be a "
        f"plan at {best}. No other run changes it.{logs}{fewer}"
    )


def _label(comparison: ComparedRuns, run: FinishedRun) -> str:
    return escape(comparison.labels[run.folder])
