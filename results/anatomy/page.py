"""The page of an analysis: one HTML file with its pictures and tables, which needs nothing else to be read."""

import base64
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from results.anatomy.analysis import Analysis, Part, read_analysis
from results.anatomy.section import Section, Table
from results.anatomy.sections import make_sections
from results.command import ONE_A_LINE, write_command
from results.pictures.collection import describe, write_pictures
from searcher.anatomy.parts import PARTS
from searcher.runs.files import whole

TEMPLATE = "page.html.jinja"
PAGE_FILE = "analysis.html"


@dataclass(frozen=True)
class Shown:
    """A part on the page.

    Attributes:
        name: of the part, an anchor.
        title: its heading.
        says: what is shown, and how sure it is.
        cost: what measuring it took, in words.
        alt: what the picture shows, in words.
        source: the picture, an SVG as a data URI.
        tables: below it.
    """

    name: str
    title: str
    says: str
    cost: str
    alt: str
    source: str
    tables: tuple[Table, ...]


def write_analysis_page(folder: Path) -> list[Path]:
    """Write the page of an analysis, and its pictures as PNG and SVG, into its folder; old ones are replaced.

    Args:
        folder: that `searcher analyze` has written; parts that are not finished are left out.

    Returns:
        The files written, the page first.

    Raises:
        UsageError: the folder holds no analysis or is damaged, or a file cannot be written.
    """
    analysis, path = read_analysis(folder), folder / PAGE_FILE
    sections = make_sections(analysis)
    pictures = write_pictures({name: section.figure for name, section in sections.items()}, folder)
    page = _render(analysis, sections)
    with whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return [path, *pictures]


def _render(analysis: Analysis, sections: dict[str, Section]) -> str:
    """The page; whatever a model or text is called is shown as it is, and never read as HTML."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader([here, here.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    record = analysis.record
    return environment.get_template(TEMPLATE).render(
        model=record["model"],
        setting=analysis.setting,
        granularity=record["granularity"],
        num_blocks=analysis.num_blocks,
        sections=[_shown(analysis, name, section) for name, section in sections.items()],
        command=command_of(analysis),
        environment=[(name, str(value)) for name, value in record["versions"].items()],
    )


def command_of(analysis: Analysis) -> str:
    """What measures these parts again, elsewhere."""
    parts = tuple(analysis.parts)
    named = {} if parts == PARTS[:-1] else {"part": parts}
    return write_command("analyze", named | analysis.record["config"], ONE_A_LINE)


def _shown(analysis: Analysis, name: str, section: Section) -> Shown:
    encoded = base64.b64encode((analysis.folder / f"{name}.svg").read_bytes()).decode("ascii")
    return Shown(
        name,
        section.title,
        section.says,
        _cost(analysis.parts[name]),
        describe(section.figure),
        f"data:image/svg+xml;base64,{encoded}",
        section.tables,
    )


def _cost(part: Part) -> str:
    if not part.cost:
        return "What measuring it took is not known."
    work = f"{part.cost['layer_forwards']:,.0f} layer-forwards and {part.cost['heads']:,.0f} heads over a window"
    return f"Measuring it took {work}, and {part.cost['seconds']:,.1f} seconds."
