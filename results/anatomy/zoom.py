"""A y axis on which one huge value does not flatten the rest."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from results.pictures.style import number

_STEPS = np.array([0.5, *(step * ten for ten in (1, 10, 100, 1000) for step in (1, 3))])


def zoom(ax: Axes, values: NDArray[np.float64], label: str) -> str:
    """A log scale, linear around 0, where a few values are many times the rest, as those of first blocks are.

    Args:
        ax: the panel, with everything drawn.
        values: that are drawn; what is not finite is ignored.
        label: of the axis.

    Returns:
        The label, which says so where the scale is logarithmic.
    """
    sizes = np.abs(values[np.isfinite(values)])
    typical = float(np.median(sizes)) if len(sizes) else 0.0
    if not typical or sizes.max() <= 8 * typical:
        return label
    low, high = ax.dataLim.y0, ax.dataLim.y1
    linear = float(10 ** np.ceil(np.log10(2 * typical)))
    ax.set_yscale("symlog", linthresh=linear, linscale=1.5)
    ax.set_ylim(
        *(1.8 * end if abs(end) > linear else end + sign * 0.1 * linear for end, sign in ((low, -1), (high, 1)))
    )
    low, high = ax.get_ylim()
    steps = [sign * step for step in linear * _STEPS for sign in (1, -1)]
    ax.yaxis.set_major_locator(FixedLocator([0, *(step for step in steps if low <= step <= high)]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(number))
    return f"{label} (log beyond {number(linear)})"
