"""How alike hidden states are before and after each run of consecutive blocks."""

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from results.anatomy.analysis import Analysis, Part
from results.anatomy.heat import colour_bar, heat, mark, name_ticks
from results.anatomy.section import Section, Table, show
from results.pictures.style import new_figure, set_labels

Best = list[tuple[int, int, float]]


def contiguous_section(analysis: Analysis, part: Part) -> Section:
    """The cosines of all runs of blocks, and the run of each length that changes the states least."""
    best = _best(part)
    lengths = sorted({1, max(1, len(best) // 4), max(1, len(best) // 2)})
    named = [f"{_span(first, length)} ({show(cosine)})" for length, first, cosine in best if length in lengths]
    says = (
        "How little each run of consecutive blocks turns the hidden states: the mean cosine before and after it, 1 "
        f"where it changes nothing but their length. Of {', '.join(map(str, lengths))} blocks in a row, those that "
        f"turn them least are {', '.join(named)}. It describes the dense model on this text; no interval was measured, "
        "and a high cosine does not prove that the loss stays low without the run."
    )
    rows = tuple((str(length), _span(first, length), show(cosine, 4)) for length, first, cosine in best)
    title = "The run of each length that turns the states least"
    table = Table(title, ("length", "blocks", "cosine"), rows, words=2, folded=True)
    return Section("Runs of consecutive blocks", says, _figure(analysis, part, best), (table,))


def _best(part: Part) -> Best:
    """Length, first block and cosine of the best run of each length that has one."""
    found = []
    for row, cosines in enumerate(part.arrays["cosines"]):
        if not np.isnan(cosines).all():
            first = int(np.nanargmax(cosines))
            found.append((row + 1, first, float(cosines[first])))
    return found


def _span(first: int, length: int) -> str:
    return str(first) if length == 1 else f"{first}-{first + length - 1}"


def _figure(analysis: Analysis, part: Part, best: Best) -> Figure:
    cosines = part.arrays["cosines"]
    blocks = len(cosines)
    caption = [
        f"{analysis.setting}. A cell is a run of so many blocks from that block on: the mean cosine of the hidden "
        "states before and after it. Yellow: they hardly turn. Circles: the best of each length. Grey: there are not "
        "so many blocks. No interval was measured."
    ]
    figure, (ax,) = new_figure("How little runs of consecutive blocks turn the hidden states", caption, 1, 6.0)
    finite = cosines[np.isfinite(cosines)]
    low = float(finite.min(initial=1.0))
    image = heat(ax, cosines, Normalize(low, max(1.0, low + 1e-9)))
    mark(ax, [(length - 1, first) for length, first, _ in best], "o", "best")
    name_ticks(ax, "x", list(map(str, range(blocks))))
    name_ticks(ax, "y", list(map(str, range(1, blocks + 1))))
    set_labels(ax, "first block", "length in blocks")
    colour_bar(figure, image, ax, "cosine")
    return figure
