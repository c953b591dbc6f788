"""What attention and FFN of every block add to the residual stream."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from results.anatomy.analysis import Analysis, Part
from results.anatomy.kinds import block_of, by_kind
from results.anatomy.section import Section, Table
from results.anatomy.zoom import zoom
from results.pictures.style import GREY, add_legend, looks, new_figure, scale, set_labels

NORMAL = float(np.sqrt(np.pi / 2))
"""Standard deviation over mean absolute value of what is normally distributed around 0."""
_PANELS = {
    "mean": "Mean",
    "mean_absolute": "Mean absolute value",
    "sigma": "Standard deviation over tokens (sigma)",
}


def updates_section(analysis: Analysis, part: Part) -> Section:
    """Mean, mean absolute value and sigma of the updates, by block."""
    sizes, sigma = part.arrays["mean_absolute"], part.arrays["sigma"]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.nan_to_num(sigma / sizes)
    most, uneven = int(np.argmax(np.nan_to_num(sizes))), int(np.argmax(ratio))
    says = (
        f"How much each sublayer changes the hidden states of the dense model, over {part.facts['tokens']:,} tokens "
        f"and all dimensions. {part.units[most]} adds most, {sizes[most]:.3g} in the mean of absolute values. Where "
        f"sigma is far above {NORMAL:.2f} times that, as it would be of a normal distribution, a few tokens or "
        f"dimensions take most of the update: most of all in {part.units[uneven]}, with {ratio[uneven]:.3g} times. "
        "These are descriptions of this text; no interval was measured."
    )
    rows = tuple((unit, *(f"{part.arrays[name][i]:.4g}" for name in _PANELS)) for i, unit in enumerate(part.units))
    table = Table("Every update", ("unit", "mean", "mean absolute", "sigma"), rows, folded=True)
    return Section("Updates of the residual stream", says, _figure(analysis, part), (table,))


def _figure(analysis: Analysis, part: Part) -> Figure:
    caption = [
        f"{analysis.setting}. The update is the residual stream after a sublayer less that before it, in the units of "
        "the hidden states; sigma is the root of its variance over tokens, in the mean over dimensions. No interval "
        "was measured."
    ]
    figure, axes = new_figure("What each sublayer adds to the residual stream", caption, len(_PANELS), 2.4)
    kinds = by_kind(part.units)
    all_looks = looks(list(kinds))
    for ax, (name, title) in zip(axes, _PANELS.items(), strict=True):
        values: NDArray[np.float64] = part.arrays[name]
        for look, places in zip(all_looks, kinds.values(), strict=True):
            blocks = [block_of(part.units[i]) for i in places]
            drawn = values[places]
            ax.plot(blocks, drawn, color=look.colour, marker=look.marker, markersize=5, linewidth=1.4, gid=look.label)
        label = "update"
        if name == "mean":
            ax.axhline(0, color=GREY, linewidth=0.9)
            label = zoom(ax, values, label)
        else:
            scale(ax, "y", values)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True, steps=[1, 2, 5, 10]))
        set_labels(ax, "block" if ax is axes[-1] else "", label, title)
    add_legend(figure, [(look.handle(), look.label) for look in all_looks])
    return figure
