"""Shapley values of units with error bars, from the notes of a run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from results.finished_run import FinishedRun
from results.labels import run_labels, setting, windows
from results.pictures.style import GREY, add_legend, looks, new_figure, number, set_labels
from searcher.contracts.plan import Part, PrunePlan, Unit

ERRORS = 2.0
"""Length of an error bar to either side, in standard errors."""
_PART = {Part.BLOCK: "block", Part.ATTENTION: "attention", Part.FFN: "FFN"}
_COLOUR = {part: look.colour for part, look in zip(_PART, looks(tuple(_PART)), strict=True)}
_BESIDE = {Part.BLOCK: 0.0, Part.ATTENTION: -0.17, Part.FFN: 0.17}


@dataclass(frozen=True)
class UnitValue:
    """What removing a unit costs on average.

    Attributes:
        unit: which.
        value: in the score that was searched for; infinite if it broke the model.
        standard_error: of it; None where it is not known.
    """

    unit: Unit
    value: float
    standard_error: float | None


def shapley_values(run: FinishedRun) -> tuple[UnitValue, ...]:
    """The values that the run's strategy has estimated, sorted by unit; empty for strategies that estimate none."""
    notes = run.outcome["notes"].get("units")
    if not isinstance(notes, Mapping):
        return ()
    found = (_value(text, entry) for text, entry in notes.items() if isinstance(entry, Mapping) and "value" in entry)
    return tuple(sorted((value for value in found if not math.isnan(value.value)), key=lambda value: value.unit))


def _value(text: str, entry: Mapping[str, object]) -> UnitValue:
    (unit,) = PrunePlan.parse(text).removed
    value, error = entry["value"], entry.get("standard_error")
    number = float(value) if isinstance(value, int | float) or value in ("inf", "-inf") else math.nan  # unknown
    return UnitValue(unit, number, float(error) if isinstance(error, int | float) else None)


def shapley_picture(runs: Sequence[FinishedRun]) -> Figure | None:
    """The Shapley values of each run that has estimated them, a panel each; None if none has."""
    labelled = [(run, look) for run, look in zip(runs, looks(run_labels(runs)), strict=True) if shapley_values(run)]
    if not labelled:
        return None
    title = "What removing a unit costs on average: Shapley values"
    figure, axes = new_figure(title, _caption([run for run, _ in labelled]), len(labelled), 3.6)
    parts: dict[Part, str] = {}
    for ax, (run, look) in zip(axes, labelled, strict=True):
        parts |= _panel(ax, run)
        set_labels(ax, "block", _unit(run), f"{look.label}: {run.outcome['notes'].get('values', 'values')}")
    entries = [(_marker(colour, filled=True), f"{_PART[part]}, removed") for part, colour in parts.items()]
    entries += [(_marker(colour, filled=False), f"{_PART[part]}, kept") for part, colour in parts.items()]
    add_legend(figure, entries)
    return figure


def _panel(ax: Axes, run: FinishedRun) -> dict[Part, str]:
    """Draw a point and bar for every unit; returns the colour of each kind of unit."""
    removed = set(run.best.plan.units(run.config.granularity))
    values = [value for value in shapley_values(run) if math.isfinite(value.value)]
    colours = {part: _COLOUR[part] for part in sorted({value.unit.part for value in values})}
    ax.axhline(0, color=GREY, linewidth=0.9)
    for value in values:
        part = value.unit.part
        ax.errorbar(
            [value.unit.block + _BESIDE[part]],
            [value.value],
            yerr=None if value.standard_error is None else [ERRORS * value.standard_error],
            color=colours[part],
            marker="o",
            markersize=5.5,
            markerfacecolor=colours[part] if value.unit in removed else "white",
            linewidth=1.2,
            gid=f"unit:{value.unit}",
        )
    ax.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True, steps=[1, 2, 5, 10]))
    ax.set_xlim(-0.8, run.record["num_blocks"] - 0.2)
    _zoom(ax, values)
    return colours


def _zoom(ax: Axes, values: Sequence[UnitValue]) -> None:
    """A log scale, linear around 0, where a few units cost many times what the rest does, as first blocks do."""
    typical = float(np.median(np.abs([value.value for value in values]))) if values else 0.0
    if not typical or max(abs(value.value) for value in values) <= 8 * typical:
        return
    ends = ax.get_ylim()
    linear = 10 ** np.ceil(np.log10(2 * typical))
    ax.set_yscale("symlog", linthresh=linear, linscale=1.5)
    ax.set_ylim(*ends)
    steps = [linear * share for share in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100)]
    ax.yaxis.set_major_locator(FixedLocator([0, *steps, *(-step for step in steps)]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(number))


def _marker(colour: str, *, filled: bool) -> Line2D:
    return Line2D([], [], color=colour, marker="o", markerfacecolor=colour if filled else "white", linestyle="none")


def _unit(run: FinishedRun) -> str:
    if run.config.weight:
        return "increase of the weighted sum"
    name, objective = next(iter(run.objectives.items()))
    return "increase of the loss (nats/token)" if objective.unit == "perplexity" else f"increase of {name}"


def _caption(runs: Sequence[FinishedRun]) -> list[str]:
    unknown = sum(not math.isfinite(value.value) for run in runs for value in shapley_values(run))
    bars = any(value.standard_error is not None for run in runs for value in shapley_values(run))
    lines = [
        f"{setting(runs[0])}, {windows(runs[0], 'search')}. A point is the mean increase when the unit is removed "
        "after a random set of others; low is cheap to remove. Filled: removed by the run's best plan."
    ]
    lines.append(
        f"Bars: {ERRORS:g} standard errors to either side, of the sampling of sets, not of the text."
        if bars
        else "The estimator gives no standard errors, so that there are no bars."
    )
    if unknown:
        lines.append(f"Not drawn: {unknown} units whose removal broke the model.")
    return lines
