"""A report: one HTML file with the pictures, tables and settings of runs, which needs nothing else to be read."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from results.command import ONE_A_LINE, command_line
from results.comparable import common_objectives
from results.compared_runs import ComparedRuns
from results.finished_run import Evaluation, FinishedRun
from results.labels import run_labels, search_windows, setting, windows
from results.pictures.collection import check_objective, describe, make_pictures, to_svg, write_pictures
from results.side_by_side import Entry, alike, show_gap, show_search_gap
from results.side_by_side import Section as ComparedSection
from results.table import Column, footnotes, plan_cells, plan_columns, shown_plans
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.files import whole

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes:
        name: of the picture, an anchor.
        alt: what it shows, in words.
        source: the SVG as a data URI.
    """

    name: str
    alt: str
    source: str


@dataclass(frozen=True)
class Row:
    """A plan in a table.

    Attributes:
        cells: its texts.
        best: whether it is the run's answer.
    """

    cells: tuple[str, ...]
    best: bool


@dataclass(frozen=True)
class Section:
    """What the page says of one run.

    Attributes:
        label: its name on this page.
        folder: where it is kept.
        summary: of the answer, for the first table: value, ratio to dense, size, granularity, plans, cost, time.
        plan: the answer.
        columns: of its plans.
        rows: its plans, the dense model first.
        notes: lines below them.
        command: how to make it again.
        settings: name, value and kind of every option.
        environment: versions and hardware.
    """

    label: str
    folder: str
    summary: tuple[str, ...]
    plan: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    command: str
    settings: tuple[tuple[str, str, str], ...]
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Verdicts:
    """What the page says of the runs of one granularity side by side.

    Attributes:
        granularity: theirs.
        reference: label of the run that the others are compared with.
        lines: sizes, such as 2-14, and what follows for each of them.
        rows: size, run, gaps, and the units that a plan keeps and removes instead, for every size and other run.
    """

    granularity: str
    reference: str
    lines: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]


def write_report(
    runs: Sequence[FinishedRun],
    path: Path,
    objective: str | None = None,
    axes: tuple[str, str] | None = None,
    pictures: Path | None = None,
) -> list[Path]:
    """Write the report of one or several runs; a file of that name is replaced, in one step.

    Args:
        runs: of one model and text.
        path: the HTML file.
        objective: which one the pictures show; the first by default.
        axes: x and y of the Pareto front.
        pictures: a folder in which to keep the pictures too, as PNG and SVG.

    Returns:
        The files written, the report first.

    Raises:
        UsageError: the runs cannot stand beside each other, one does not have what is asked for, or a file cannot be
            written.
    """
    figures = make_pictures(runs, objective, axes)
    page = render_report(runs, figures, objective)
    with whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return [path, *(write_pictures(figures, pictures) if pictures else [])]


def parse_axes(text: str) -> tuple[str, str]:
    """The names in `x,y`. Raises UsageError if there are not two."""
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise UsageError(f"Axes '{text}' are not two names", "Write them as x,y, such as size,perplexity")
    return names[0], names[1]


def render_report(runs: Sequence[FinishedRun], figures: dict[str, Figure], objective: str | None = None) -> str:
    """The page; whatever a model, text or run is called is shown as it is, and never read as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["units"] = _with_breaks
    if objective is not None:
        check_objective(runs, objective)
    name = objective or common_objectives(runs)[0]
    compared = ComparedRuns(runs, name) if len(runs) > 1 else None
    return environment.get_template(TEMPLATE).render(
        model=runs[0].record["model"],
        setting=setting(runs[0]),
        search_windows=search_windows(runs),
        report_windows=windows(runs[0], "report"),
        objective=name,
        dtype=runs[0].record["identity"]["dtype"],
        interval=runs[0].interval_in_words(name),
        sections=[_section(run, label, name) for run, label in zip(runs, run_labels(runs), strict=True)],
        verdicts=[] if compared is None else list(map(_verdicts, compared.sections)),
        notes=() if compared is None else compared.notes,
        pictures=[_picture(name, figure) for name, figure in figures.items()],
    )


def _with_breaks(plan: str) -> Markup:
    """A plan that may go on in the next line after a comma, and nowhere else."""
    *items, last = plan.split(",")
    return Markup("<wbr />").join([*(Markup("<span>{},</span>").format(item) for item in items), last])


def _verdicts(section: ComparedSection) -> Verdicts:
    return Verdicts(
        str(section.granularity),
        section.label,
        tuple(_verdict_lines(section)),
        tuple(_gap_row(size.size, entry) for size in section.sizes for entry in size.entries[1:]),
    )


def _verdict_lines(section: ComparedSection) -> Iterator[tuple[str, str]]:
    """What follows for each size; sizes next to one another of which the same is true share a line."""
    for sizes, verdict in alike(section, lambda size: size.verdict):
        yield str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]}", verdict


def _gap_row(size: int, entry: Entry) -> tuple[str, ...]:
    if entry.same:
        return str(size), entry.label, "same plan", "", "", ""
    kept, removed = (str(PrunePlan.of(units)) if units else "" for units in (entry.kept, entry.removed))
    return str(size), entry.label, show_search_gap(entry), show_gap(entry.report_gap), kept, removed


def _picture(name: str, figure: Figure) -> Picture:
    encoded = base64.b64encode(to_svg(figure)).decode("ascii")
    return Picture(name, describe(figure), f"data:image/svg+xml;base64,{encoded}")


def _section(run: FinishedRun, label: str, objective: str) -> Section:
    best = run.best.plan
    rows = (Row(tuple(plan_cells(run, e)), e.plan == best) for e in (run.dense, *shown_plans(run)))
    return Section(
        label,
        str(run.folder),
        tuple(_summary(run, objective)),
        str(best),
        tuple(plan_columns(run)),
        tuple(rows),
        tuple(footnotes(run)),
        command_line(run.config, ONE_A_LINE),
        tuple(_settings(run)),
        tuple(_environment(run)),
    )


def _summary(run: FinishedRun, objective: str) -> Iterator[str]:
    best, cost = run.best, run.outcome["cost"]
    yield from _cells_of(run, best, objective)
    yield str(best.size)
    yield str(run.config.granularity)
    yield f"{cost['charged']['evaluations']:,.0f}"
    yield f"{cost['charged']['total']:,.0f}"
    yield f"{cost['seconds']:,.0f} s"


def _cells_of(run: FinishedRun, evaluation: Evaluation, objective: str) -> tuple[str, str]:
    """The objective on the report split with its interval, and its ratio to the dense model."""
    columns = [(column.kind, column.objective) for column in plan_columns(run)]
    cells = dict(zip(columns, plan_cells(run, evaluation), strict=True))
    return cells["report", objective], cells["ratio", objective]


def _settings(run: FinishedRun) -> Iterator[tuple[str, str, str]]:
    """Every option; where one was left to searcher, what it was then."""
    used = run.record["identity"]
    for name, kind in RunConfig.kinds().items():
        value = used.get(name, run.record["config"].get(name))
        if value is None and name in ("model", "data"):  # the default, which has a name
            value = run.record["model" if name == "model" else "text"]
        yield name.replace("_", "-"), _text(value), kind


def _environment(run: FinishedRun) -> Iterator[tuple[str, str]]:
    for name, value in {**run.record["hardware"], **run.record["versions"]}.items():
        yield name, _text(value)
    for name, value in run.record["identity"].items():
        if name.endswith("_fingerprint"):
            yield name.replace("_", " "), _text(value)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_text(member)}" for name, member in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "none" if value in (None, "") else str(value)
