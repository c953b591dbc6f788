"""Which units each plan removes: a strip per plan, a cell per block, its upper half the attention."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from results.finished_run import Evaluation, FinishedRun
from results.labels import run_labels, search_windows, setting, units
from results.pictures.style import FAINT, Look, looks, new_figure, set_labels
from searcher.contracts.plan import Action

MOST_STRIPS = 48
"""Strips in one picture, after which sizes are left out."""
_STRIP, _GAP, _HALF = 0.19, 0.12, 0.4
"""Inches of a strip; what of it is free; height of half a cell in strips."""


def removed_units(runs: Sequence[FinishedRun]) -> Figure:
    """The chosen plans of each run, small sizes on top; a panel a run.

    Where there are very many, sizes are left out evenly, the largest never.
    """
    shown = [shown_evaluations(run, MOST_STRIPS // len(runs)) for run in runs]
    figure, axes = new_figure("Which units the plans remove", _caption(runs, shown), len(runs), 1.0)
    figure.set_figheight(figure.get_figheight() + sum(_STRIP * len(e) for e in shown) - 0.25 * len(runs))
    axes[0].get_subplotspec().get_gridspec().set_height_ratios([len(evaluations) + 1.0 for evaluations in shown])
    all_looks = looks(run_labels(runs))
    for ax, run, evaluations, look in zip(axes, runs, shown, all_looks, strict=True):
        _panel(ax, run, evaluations, look)
    set_labels(axes[-1], "block", "size", axes[-1].get_title("left"))
    return figure


def shown_evaluations(run: FinishedRun, most: int) -> tuple[Evaluation, ...]:
    """The chosen plans, every so many of them, so that there are at most this many (but one at least)."""
    every = -(-len(run.chosen) // max(1, most))
    return tuple(reversed(run.chosen[::-1][::every]))


def _panel(ax: Axes, run: FinishedRun, evaluations: Sequence[Evaluation], look: Look) -> None:
    blocks = run.record["num_blocks"]
    for row, evaluation in enumerate(evaluations):
        actions = evaluation.plan.actions(blocks)
        for upper, part in ((True, Action.NO_ATTENTION), (False, Action.NO_FFN)):
            bottom = row - _HALF if upper else row
            gone = [bool(action & part) for action in actions]
            for removed, colour in ((False, FAINT), (True, look.colour)):
                spans = [(block - 0.46, 0.92) for block in range(blocks) if gone[block] is removed]
                ax.broken_barh(
                    spans, (bottom, _HALF), facecolors=colour, linewidth=0, gid=f"{row}:{part.name}:{removed}"
                )
    ax.set_xlim(-0.6, blocks - 0.4)
    ax.set_ylim(len(evaluations) - 1 + _HALF + _GAP, -_HALF - _GAP)
    ax.yaxis.set_major_locator(FixedLocator(range(len(evaluations))))
    ax.set_yticklabels([str(evaluation.size) for evaluation in evaluations])
    ax.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True, steps=[1, 2, 5, 10]))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    granularity = run.config.granularity
    set_labels(ax, "", "size", look.label if granularity in look.label else f"{look.label}: {units(granularity)}")


def _caption(runs: Sequence[FinishedRun], shown: Sequence[Sequence[Evaluation]]) -> list[str]:
    left_out = sum(len(run.chosen) for run in runs) - sum(map(len, shown))
    lines = [
        f"{setting(runs[0])}. A row is the plan of that size that the run chose on {search_windows(runs)}; a "
        "column is a block, its upper half the attention, its lower half the FFN. Coloured: removed. Grey: kept.",
        "Which unit comes first is as uncertain as the scores of the plans, for which see the other pictures.",
    ]
    if left_out:
        lines.append(f"Left out for room: {left_out} plans of sizes between those shown.")
    return lines
