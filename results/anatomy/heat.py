"""Heat maps: their colours, ticks and colour bars."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy.typing import NDArray

from results.pictures.style import FAINT, GREY, INK, number, plain

MOST_TICKS = 16
AMOUNT, DIVERGING = "viridis", "RdBu"
"""Colour maps of Matplotlib that colour-blind readers can tell apart."""
_TEXT, _SMALL = 10.5, 9.0


def heat(
    ax: Axes, values: NDArray[np.float64], norm: Normalize, colours: str = AMOUNT, *, square: bool = True
) -> AxesImage:
    """Draw a matrix, its first row on top; what is NaN is light grey.

    Args:
        ax: the panel.
        values: float64 (rows, columns).
        norm: from values to colours.
        colours: name of a colour map.
        square: whether cells must be.
    """
    shown = mpl.colormaps[colours].with_extremes(bad=FAINT)
    image = ax.imshow(
        values, norm=norm, cmap=shown, aspect="equal" if square else "auto", interpolation="nearest", gid="cells"
    )
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return image


def colour_bar(figure: Figure, image: AxesImage, axes: Any, label: str, ticks: Sequence[float] | None = None) -> None:
    """A bar at the right that says what the colours mean."""
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02, aspect=30, extend=_extend(image))
    bar.set_label(plain(label), fontsize=_TEXT, color=INK)
    if ticks is not None:
        bar.ax.yaxis.set_major_locator(FixedLocator(list(ticks)))
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.ax.set_yticklabels([f"{tick:.3g}" for tick in ticks])
    else:
        bar.ax.yaxis.set_major_formatter(FuncFormatter(number))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.ax.tick_params(labelsize=_SMALL, colors=GREY, labelcolor=INK)
    bar.outline.set_visible(False)


def around_zero(values: NDArray[np.float64]) -> tuple[SymLogNorm, list[float]]:
    """Colours around 0 that tell apart small values and large ones, and the ticks of their bar.

    Linear up to twice the median size and logarithmic beyond, for a few pairs, often of the first block, interact many
    times as much as the rest.
    """
    sizes = np.abs(values[np.isfinite(values)])
    most = float(sizes.max(initial=0)) or 1.0
    linear = min(2 * float(np.median(sizes)) if len(sizes) else 0.0, most) or most
    powers = 10.0 ** np.arange(np.floor(np.log10(linear)), np.floor(np.log10(most)) + 1)
    steps = [step for step in np.outer(powers, (1, 3)).flat if linear / 2 <= step <= most] or [most]
    ticks = [*(-step for step in reversed(steps)), 0.0, *steps]
    return SymLogNorm(linthresh=linear, vmin=-most, vmax=most), ticks


def name_ticks(ax: Axes, which: str, labels: Sequence[str]) -> None:
    """Name rows or columns of a heat map, every so many where there are many."""
    every = -(-len(labels) // MOST_TICKS) or 1
    if every > 1 and any(label.endswith(".attn") for label in labels):
        every += every % 2  # so that both kinds of sublayer are not mixed up: each label is an attention
    places = list(range(0, len(labels), every))
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(FixedLocator(places))
    axis.set_ticklabels([plain(labels[place]) for place in places])
    if which == "x" and max(map(len, labels), default=0) > 3:
        ax.tick_params(axis="x", labelrotation=60)


def mark(ax: Axes, cells: Sequence[tuple[int, int]], marker: str, gid: str) -> None:
    """Put a sign on cells, given as (row, column)."""
    if cells:
        rows, columns = zip(*cells, strict=True)
        (signs,) = ax.plot(
            columns, rows, marker, color=INK, markerfacecolor="none", markersize=6, markeredgewidth=1.2, gid=gid
        )
        signs.set_path_effects([withStroke(linewidth=2.8, foreground="white")])  # to be seen on dark cells, too


def _extend(image: AxesImage) -> str:
    values: NDArray[np.float64] = np.ma.asarray(image.get_array()).compressed()
    below = bool((values < (image.norm.vmin or -np.inf)).any())
    above = bool((values > (np.inf if image.norm.vmax is None else image.norm.vmax)).any())
    return {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
