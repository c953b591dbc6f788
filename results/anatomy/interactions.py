"""Which pairs of units are redundant, and which complementary."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from results.anatomy.analysis import Analysis, Part
from results.anatomy.pairs import MARKS, Pairs, draw_pairs, strongest
from results.anatomy.section import Section, Table, half_widths, show_interval
from results.pictures.style import new_figure

MOST_PAIRS = 10


def interactions_section(analysis: Analysis, part: Part) -> Section:
    """All interactions, and the strongest pairs with their intervals."""
    matrix = part.arrays["matrix"]
    redundant, complementary = strongest(matrix, len(matrix) ** 2)
    certain = _certain(part)
    sure = [sum(map(certain.__getitem__, pairs)) for pairs in (redundant, complementary)]
    says = (
        f"How much more the loss rises without two {analysis.units(2)} together than without each alone, J. Above 0 "
        "one can do what the other did: the two are redundant, and a search that judges them one by one takes both too "
        "easily. Below 0 they are complementary: with one gone the other is worth less. Of "
        f"{len(matrix) * (len(matrix) - 1) // 2} pairs {len(redundant)} are above 0 and {len(complementary)} below; "
        f"by intervals that hold with 95% for all pairs at once {sure[0]} are certainly redundant and {sure[1]} "
        f"certainly complementary. Intervals are {analysis.spread}; more windows narrow them."
    )
    tables = tuple(
        _table(analysis, part, kind, pairs)
        for kind, pairs in (("redundant", redundant), ("complementary", complementary))
    )
    return Section("Interactions of pairs", says, _figure(analysis, part), tables)


def _certain(part: Part) -> NDArray[np.bool_]:
    """(units, units): whether the interval that holds for all pairs at once leaves out 0."""
    found: NDArray[np.bool_] = np.abs(part.arrays["matrix"]) > part.arrays["half_widths"]
    return found


def _figure(analysis: Analysis, part: Part) -> Figure:
    caption = [
        f"{analysis.setting}. A cell is J = f(both) - f(one) - f(other) + f(none), f the mean loss without them. "
        f"{MARKS} Grey: the unit itself, or a plan that breaks the model. Intervals are in the tables."
    ]
    figure, (ax,) = new_figure(f"How much pairs of {analysis.units(2)} interact", caption, 1, 6.2)
    draw_pairs(figure, ax, analysis, part, "matrix")
    return figure


def _table(analysis: Analysis, part: Part, kind: str, pairs: Pairs) -> Table:
    matrix, certain = part.arrays["matrix"], _certain(part)
    half = half_widths(part.arrays["per_window"], analysis.documents)
    rows = []
    for i, j in pairs[:MOST_PAIRS]:
        value = float(matrix[i, j])
        shown = show_interval(value, value - half[i, j], value + half[i, j])
        rows.append((part.units[i], part.units[j], "yes" if certain[i, j] else "no", shown))
    unit = analysis.units(1)
    columns = (unit, unit, "certain among all pairs", "J in nats per token (95% interval of this pair)")
    note = (
        f"The first {len(rows)} of {len(pairs)}. They are chosen for being large on the windows they are judged on, so "
        "that some of it is chance; certain are those whose interval leaves out 0 even so."
    )
    return Table(f"The most {kind} pairs", columns, tuple(rows), words=3, note=note)
