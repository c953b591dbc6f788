"""What becomes of the loss when a copy of one block stands in the place of another."""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from results.anatomy.analysis import Analysis, Part
from results.anatomy.heat import colour_bar, heat, mark, name_ticks
from results.anatomy.section import Section, Table, half_widths, show, show_interval
from results.pictures.style import new_figure, set_labels

_RANGE = 1e3
"""How many times the smallest value that is told apart the largest is."""


def replacement_section(analysis: Analysis, part: Part) -> Section:
    """The map of what the loss rises by, the best replacement for each block, and who can stand for whom."""
    near = part.facts["symmetry_near"]
    says = (
        "What the loss rises by when a copy of one block runs in the place of another, for all pairs. "
        f"{_extremes(part)}{_against_removal(analysis, part)} Among blocks at most {near['distance']} apart the rank "
        f"correlation of both directions is {show_interval(near['value'], near['low'], near['high'])}, which would be "
        "1 of a symmetric map. The best replacement was chosen on the same windows as it is judged on, so that its "
        "value is a little too good."
    )
    tables = [_replacements(analysis, part), _medians(part)]
    if part.facts["misfits"]:
        tables.append(_misfits(part))
    return Section("Blocks in the place of others", says, _figure(analysis, part), tuple(tables))


def _extremes(part: Part) -> str:
    """Which block can stand for any other, and which can be replaced by any."""
    copy, place = (np.nan_to_num(part.arrays[name], nan=np.inf) for name in ("as_copy", "as_place"))
    stands, gives = int(np.argmin(copy)), int(np.argmin(place))
    return (
        f"Block {stands} comes closest to standing for any other (median rise {show(float(copy[stands]))} nats per "
        f"token), and block {gives} to being replaced by any other (median rise {show(float(place[gives]))})."
    )


def _removed(analysis: Analysis) -> dict[int, float]:
    """By block, what the loss rises by without it, where that was measured on these windows too."""
    part = analysis.parts.get("influence")
    if part is None or not all(unit.isdecimal() for unit in part.units):
        return {}
    return {int(unit): float(rise) for unit, rise in zip(part.units, part.arrays["leave_one_out"], strict=True)}


def _against_removal(analysis: Analysis, part: Part) -> str:
    removed, mean = _removed(analysis), _off_diagonal(part)
    best = _best(mean)
    if not removed:
        return ""
    better = sum(bool(mean[place, block] < removed[place]) for place, block in best.items())
    return f" In {better} of {len(best)} places the best replacement does better than removing the block."


def _increase(part: Part) -> NDArray[np.float64]:
    """float64 (blocks, blocks, windows) above the dense model."""
    losses = part.arrays["losses"]
    above: NDArray[np.float64] = losses - losses[0, 0]
    return above


def _off_diagonal(part: Part) -> NDArray[np.float64]:
    """float64 (blocks, blocks): the mean increase, NaN on the diagonal, which is the dense model."""
    mean: NDArray[np.float64] = _increase(part).mean(axis=-1)
    np.fill_diagonal(mean, np.nan)
    return mean


def _best(mean: NDArray[np.float64]) -> dict[int, int]:
    """By place, the block that raises the loss least there; places where none runs are left out."""
    kept = {place: np.where(np.isfinite(row), row, np.nan) for place, row in enumerate(mean)}
    return {place: int(np.nanargmin(row)) for place, row in kept.items() if not np.isnan(row).all()}


def _figure(analysis: Analysis, part: Part) -> Figure:
    mean = _off_diagonal(part)
    caption = [
        f"{analysis.setting}. Row i, column j: the mean loss with a copy of block j in the place of block i, less that "
        "of the dense model. A light column: a block that can stand for others; a light row: a place that takes "
        "others. Circles: the best of each row. Grey: the block itself, or one that does not fit."
    ]
    figure, (ax,) = new_figure("What the loss rises by with one block in the place of another", caption, 1, 6.0)
    finite = mean[np.isfinite(mean) & (mean > 0)]
    most = float(finite.max(initial=0)) or 1.0
    least = max(float(finite.min()) if len(finite) else most / 10, most / _RANGE)
    norm = LogNorm(min(least, most / 2), most)
    shown = np.where(np.isnan(mean), np.nan, np.clip(mean, norm.vmin, np.inf))  # no logarithm at 0 and below
    image = heat(ax, np.where(np.isinf(shown), most, shown), norm, "viridis_r")
    mark(ax, list(_best(mean).items()), "o", "best")
    labels = list(map(str, range(len(mean))))
    name_ticks(ax, "x", labels)
    name_ticks(ax, "y", labels)
    set_labels(ax, "block j, copied", "place i")
    colour_bar(figure, image, ax, "nats per token")
    return figure


def _replacements(analysis: Analysis, part: Part) -> Table:
    mean, losses, removed = _off_diagonal(part), part.arrays["losses"], _removed(analysis)
    half, best = half_widths(_increase(part), analysis.documents), _best(mean)
    rows = []
    for place in sorted(best, key=lambda place: mean[place, best[place]]):
        cell = place, best[place]
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(losses[cell].mean()))
        rise = show_interval(mean[cell], mean[cell] - half[cell], mean[cell] + half[cell])
        rows.append((*map(str, cell), rise, show(perplexity), *([show(removed[place])] if removed else [])))
    note = (
        f"Perplexity of the dense model on these windows: {show(float(np.exp(losses[0, 0].mean())))}. Intervals are "
        f"{analysis.spread}, and do not allow for the choice of the best."
    )
    columns = (
        "place",
        "best replacement",
        "loss increase (95% interval)",
        "perplexity",
        *["without the block"][: len(removed)],
    )
    return Table("The best replacement for each block", columns, tuple(rows), words=2, note=note, folded=True)


def _medians(part: Part) -> Table:
    copy, place = part.arrays["as_copy"], part.arrays["as_place"]
    order = np.argsort(np.nan_to_num(copy, nan=np.inf), kind="stable")
    rows = tuple((str(block), show(float(copy[block])), show(float(place[block]))) for block in order)
    return Table(
        "Which block can stand for any, and which can be replaced by any",
        ("block", "standing for the others", "replaced by the others"),
        rows,
        note="Median loss increase in nats per token over all other blocks.",
        folded=True,
    )


def _misfits(part: Part) -> Table:
    rows = tuple((str(found["place"]), str(found["block"]), str(found["reason"])) for found in part.facts["misfits"])
    return Table("Pairs that could not be run", ("place", "block", "why"), rows, words=3, folded=True)
