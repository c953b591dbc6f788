"""Every part of an analysis as pictures and tables."""

from collections.abc import Callable

from matplotlib.figure import Figure

from results.anatomy.analysis import Analysis, Part
from results.anatomy.contiguous import contiguous_section
from results.anatomy.heads import heads_section
from results.anatomy.influence import influence_section
from results.anatomy.interactions import interactions_section
from results.anatomy.replacement import replacement_section
from results.anatomy.section import Section
from results.anatomy.shapley import shapley_section
from results.anatomy.updates import updates_section
from searcher.errors import UsageError

SECTIONS: dict[str, Callable[[Analysis, Part], Section]] = {
    "influence": influence_section,
    "updates": updates_section,
    "heads": heads_section,
    "contiguous": contiguous_section,
    "replacement": replacement_section,
    "interactions": interactions_section,
    "shapley": shapley_section,
}


def make_sections(analysis: Analysis) -> dict[str, Section]:
    """By the name of the part.

    Raises:
        UsageError: what a part says about its arrays lacks something.
    """
    made = {}
    for name, part in analysis.parts.items():
        try:
            made[name] = SECTIONS[name](analysis, part)
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"{analysis.folder / name}.json lacks {error}",
                "Take its files away and run the same searcher analyze command again",
            ) from error
    return made


def draw(analysis: Analysis) -> dict[str, Figure]:
    """The picture of each finished part, by its name."""
    return {name: section.figure for name, section in make_sections(analysis).items()}
