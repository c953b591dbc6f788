"""How alike the attention heads within each block are: a small matrix a block."""

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from results.anatomy.analysis import Analysis, Part
from results.anatomy.heat import DIVERGING, colour_bar, heat
from results.anatomy.section import Section, Table, show
from results.pictures.style import INK, new_figure

ALIKE = 0.9
"""Pairs of heads whose cosine is above this are counted and listed."""
ACROSS, MOST_LISTED = 8, 6
_CELL = 1.05
"""Small matrices side by side; pairs of a block in the table; inches a row of matrices takes."""
Pairs = list[tuple[float, int, int]]


def heads_section(analysis: Analysis, part: Part) -> Section:
    """The cosines of the heads' mean outputs, and the pairs of each block that are much alike."""
    pairs = [_pairs(matrix) for matrix in part.arrays["cosines"]]
    alike = [[pair for pair in of_block if pair[0] > ALIKE] for of_block in pairs]
    total, most = sum(map(len, alike)), max(range(len(alike)), key=lambda block: len(alike[block]))
    where = f", most of them in block {most} ({len(alike[most])} of {len(pairs[most])})" if total else ""
    missing = part.facts["not_found"]
    left_out = f" The heads of {len(missing)} blocks were not found." if missing else ""
    says = (
        "How alike the mean outputs of the heads of one block are, as cosines, before the output projection mixes "
        f"them: of {sum(map(len, pairs)):,} pairs {total:,} are above {ALIKE}{where}. With grouped-query attention "
        f"these are query heads, and those that share keys and values tend to be alike.{left_out} They are means over "
        "this text; no interval was measured."
    )
    tables = (_table(pairs, alike), *((_reasons(missing),) if missing else ()))
    return Section("Similarity of heads", says, _figure(analysis, part), tables)


def _pairs(matrix: np.ndarray) -> Pairs:
    """Cosine and heads of every pair of one block, the most alike first."""
    one, other = np.triu_indices(len(matrix), 1)
    found = [
        (float(matrix[i, j]), int(i), int(j)) for i, j in zip(one, other, strict=True) if np.isfinite(matrix[i, j])
    ]
    return sorted(found, key=lambda pair: (-pair[0], *pair[1:]))


def _table(pairs: list[Pairs], alike: list[Pairs]) -> Table:
    rows = tuple(
        (str(block), f"{len(alike[block])} of {len(found)}", _listed(alike[block]))
        for block, found in enumerate(pairs)
        if found
    )
    note = (
        f"The most alike first, {MOST_LISTED} of a block at most. The threshold is a choice; the arrays have them all."
    )
    return Table(
        f"Pairs of heads with a cosine above {ALIKE}",
        ("block", "pairs", "heads"),
        rows,
        words=3,
        note=note,
        folded=True,
    )


def _listed(pairs: Pairs) -> str:
    more = f", and {len(pairs) - MOST_LISTED} more" if len(pairs) > MOST_LISTED else ""
    return ", ".join(f"{i} and {j} ({show(value)})" for value, i, j in pairs[:MOST_LISTED]) + more or "-"


def _reasons(missing: dict[str, str]) -> Table:
    return Table("Blocks without heads", ("block", "why"), tuple(missing.items()), words=2, folded=True)


def _figure(analysis: Analysis, part: Part) -> Figure:
    cosines = np.clip(part.arrays["cosines"], -1, 1)  # rounding leaves some a little above 1
    across = min(ACROSS, len(cosines))
    down = -(-len(cosines) // across)
    caption = [
        f"{analysis.setting}. A matrix is a block, its rows and columns are the heads from 0 on: the cosine of their "
        "mean outputs over all tokens. Blue off the diagonal: heads that do nearly the same. Grey: not found. No "
        "interval was measured."
    ]
    figure, (whole,) = new_figure("How alike the heads of each block are", caption, 1, _CELL * down + 0.3)
    grid = whole.get_subplotspec().subgridspec(down, across)
    whole.remove()
    axes = []
    for block, matrix in enumerate(cosines):
        ax = figure.add_subplot(grid[block // across, block % across])
        shown = matrix if matrix.size else np.full((1, 1), np.nan)
        image = heat(ax, shown, Normalize(-1, 1), DIVERGING)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(f"block {block}", fontsize=9, color=INK, pad=2)
        axes.append(ax)
    colour_bar(figure, image, axes, "cosine")
    return figure
