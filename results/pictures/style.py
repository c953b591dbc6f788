"""How the pictures look: one palette, one size of letters, axes and captions that are the same everywhere."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

WIDTH = 9.0
"""Of every picture, in inches."""
INK, GREY, FAINT = "#222222", "#5f5f5f", "#e4e4e4"
WIDE = 4.0
"""Values whose largest is this many times the smallest are drawn on a log axis."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#7a7a00")
"""Okabe & Ito 2008, whose colours stay apart for colour-blind readers, and two of Paul Tol's; yellow is too light."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<")
_TITLE, _TEXT, _SMALL = 13.0, 10.5, 9.0


@dataclass(frozen=True)
class Look:
    """How one run is drawn; with more runs than colours the markers tell them apart.

    Attributes:
        label: name of the run.
        colour: of everything that is drawn for it.
        marker: of its points.
    """

    label: str
    colour: str
    marker: str

    def handle(self) -> Line2D:
        """Its entry in a legend."""
        return Line2D([], [], color=self.colour, marker=self.marker, linewidth=1.6, markersize=6)


def looks(labels: Sequence[str]) -> tuple[Look, ...]:
    """One look for each run, in order, no two alike among the first 72."""
    return tuple(
        Look(label, _COLOURS[i % len(_COLOURS)], _MARKERS[(i + i // len(_COLOURS)) % len(_MARKERS)])
        for i, label in enumerate(labels)
    )


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar sign begins no formula, and no legend entry is hidden."""
    escaped = "".join(" " if ord(c) < 32 else c for c in text).replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def new_figure(title: str, caption: Iterable[str], panels: int = 1, panel_height: float = 4.2) -> tuple[Figure, Any]:
    """A figure of panels below one another, with a title above and a caption below.

    Args:
        title: what is shown.
        caption: sentences: what is compared, on which model and text, with what uncertainty.
        panels: how many.
        panel_height: of each, in inches.

    Returns:
        The figure, and its axes: an array (panels,).
    """
    head = textwrap.fill(plain(title), 84)
    foot = "\n".join(line for sentence in caption for line in textwrap.wrap(plain(sentence), 128))
    height = panels * panel_height + 0.25 * (head.count("\n") + 1) + 0.16 * (foot.count("\n") + 1) + 0.2
    layout = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.07, hspace=0.05)
    figure = Figure(figsize=(WIDTH, height), layout=layout, facecolor="white")
    figure.suptitle(head, x=0.01, ha="left", fontsize=_TITLE, fontweight="bold", color=INK)
    figure.supxlabel(foot, x=0.01, ha="left", fontsize=_SMALL, color=GREY, linespacing=1.35)
    axes = figure.subplots(panels, 1, squeeze=False)[:, 0]
    for ax in axes:
        _tidy(ax)
    return figure, axes


def _tidy(ax: Axes) -> None:
    ax.set_facecolor("none")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(which="both", labelsize=_TEXT, colors=GREY, labelcolor=INK)
    ax.grid(axis="y", color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)


def set_labels(ax: Axes, x: str, y: str, title: str = "") -> None:
    """Name both axes, and the panel."""
    ax.set_xlabel(plain(x), fontsize=_TEXT, color=INK)
    ax.set_ylabel(plain(y), fontsize=_TEXT, color=INK)
    ax.set_title(plain(title), fontsize=_TEXT, color=INK, loc="left", fontweight="bold")


def add_legend(figure: Figure, entries: Sequence[tuple[Any, str]]) -> None:
    """A legend to the right of all panels, where it covers no data."""
    handles = [handle for handle, _ in entries]
    labels = ["\n".join(textwrap.wrap(plain(label), 24) or [" "]) for _, label in entries]
    figure.legend(handles, labels, loc="outside right center", fontsize=_TEXT, frameon=False, labelcolor=INK)


def scale(ax: Axes, which: str, values: Iterable[float], *, whole: bool = False, engineering: bool = False) -> None:
    """Choose the scale and ticks of an axis for the values on it.

    Args:
        ax: the panel.
        which: `x` or `y`.
        values: what is drawn; what is not finite is ignored.
        whole: whether they are whole numbers, such as sizes.
        engineering: whether they are amounts, to be written as 134M.
    """
    axis = ax.xaxis if which == "x" else ax.yaxis
    finite = np.array([value for value in values if np.isfinite(value)])
    if whole:
        axis.set_major_locator(MaxNLocator(integer=True))
    elif len(finite) and finite.min() > 0 and finite.max() / finite.min() >= WIDE:
        ax.set(**{f"{which}scale": "log"})
        ratio = finite.max() / finite.min()
        axis.set_major_locator(
            LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if ratio < 12 else (1, 2, 5) if ratio < 300 else (1,))
        )
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(number))
    if engineering:
        axis.set_major_formatter(EngFormatter(sep=""))


def number(value: float, _position: int | None = None) -> str:
    """A tick's label: no powers of ten where digits do."""
    return f"{value:,.0f}" if 1 <= value < 1e6 else f"{value:g}"


def axis_end(keep: Iterable[float], lower_is_better: bool) -> float:
    """Where a y axis should end: plans far worse than those that matter would leave no room for them.

    Args:
        keep: values that must be seen.
        lower_is_better: where higher is better nothing is cut off, for bad values are near zero there.

    Returns:
        A few times the worst of the values to keep, or infinity.
    """
    kept = [value for value in keep if np.isfinite(value)]
    return WIDE * max(kept) if lower_is_better and kept and min(kept) > 0 else float("inf")


def finite_or_nan(values: Iterable[float | None]) -> NDArray[np.float64]:
    """float64 (values,): NaN, which matplotlib leaves out, for what is missing or not finite."""
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)
