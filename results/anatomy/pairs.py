"""Pairs of units that interact most: redundant above 0, complementary below."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from results.anatomy.analysis import Analysis, Part
from results.anatomy.heat import DIVERGING, around_zero, colour_bar, heat, mark, name_ticks
from results.pictures.style import set_labels

MARKED = 5
"""Pairs of each kind that are marked in the picture."""
Pairs = list[tuple[int, int]]


def strongest(matrix: NDArray[np.float64], most: int) -> tuple[Pairs, Pairs]:
    """The pairs above 0 and those below, the furthest from it first, so many of each at most; NaN is left out."""
    pairs = [(int(i), int(j)) for i, j in zip(*np.triu_indices(len(matrix), 1), strict=True)]
    above = sorted((pair for pair in pairs if matrix[pair] > 0), key=lambda pair: -matrix[pair])
    below = sorted((pair for pair in pairs if matrix[pair] < 0), key=lambda pair: matrix[pair])
    return above[:most], below[:most]


def draw_pairs(figure: Figure, ax: Axes, analysis: Analysis, part: Part, name: str, title: str = "") -> None:
    """A heat map of a part's matrix of this name, its strongest pairs marked in the upper half."""
    matrix = part.arrays[name]
    redundant, complementary = strongest(matrix, MARKED)
    norm, ticks = around_zero(matrix)
    image = heat(ax, matrix, norm, DIVERGING)
    mark(ax, redundant, "o", "redundant")
    mark(ax, complementary, "s", "complementary")
    name_ticks(ax, "x", part.units)
    name_ticks(ax, "y", part.units)
    set_labels(ax, analysis.units(1), analysis.units(1), title)
    colour_bar(figure, image, ax, "nats per token", ticks)


MARKS = (
    f"Blue, above 0: redundant; red, below: complementary. Marked: the {MARKED} most redundant (circles) and most "
    "complementary (squares). The colours are linear around 0 and logarithmic beyond."
)
"""How to read that map."""
