"""What the page says of one part: sentences, a picture, tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from searcher.runs.clusters import standard_errors

LEVEL = 0.95


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: what is listed.
        columns: their headings; all but the first `words` hold numbers.
        rows: of texts.
        words: how many columns from the left hold words.
        note: a line below, or empty.
        folded: whether it is shown only when opened.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """One part.

    Attributes:
        title: its heading.
        says: one or two sentences: what is shown, and how sure it is.
        figure: the picture.
        tables: below it.
    """

    title: str
    says: str
    figure: Figure
    tables: tuple[Table, ...]


def show(value: float | None, digits: int = 3) -> str:
    """A number with its sign where it is negative, `-` where there is none."""
    if value is None or np.isnan(value):
        return "-"
    return f"{value:.{digits}f}" if np.isinf(value) or abs(value) < 1e4 else f"{value:.3g}"


def show_interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """`0.512 [0.201, 0.731]`, or the number alone where there is no interval."""
    if low is None or high is None or not np.isfinite([low, high]).all():
        return show(value, digits)
    return f"{show(value, digits)} [{show(low, digits)}, {show(high, digits)}]"


def half_widths(rows: NDArray[np.float64], documents: Sequence[int]) -> NDArray[np.float64]:
    """Of 95% Student t intervals of means over windows: (…, windows) to (…,); NaN where they cannot be told.

    Args:
        rows: a value of each window.
        documents: the document of each; the spread is taken between documents, see `searcher.runs.clusters`.
    """
    errors, degrees = standard_errors(rows, documents)
    if not degrees:
        return errors
    found: NDArray[np.float64] = errors * stats.t.isf((1 - LEVEL) / 2, degrees)
    return found
