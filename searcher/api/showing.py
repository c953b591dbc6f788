"""What was found, side by side and on pages: `searcher.compare`, `report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from searcher.api.origin import opened_runs
from searcher.contracts.own_packages import check_own_packages

if TYPE_CHECKING:
    from results.comparison import Comparison
    from results.run import Run


def compare(
    *runs: "str | Path | Run", objective: str | None = None, reference: str | Path | None = None
) -> "Comparison":
    """Set finished runs side by side: `searcher.compare("runs/greedy", "runs/shapley").table()`.

    Args:
        runs: two or more of one model and text; what :func:`run` returned, or their folders.
        objective: the one to compare by; by default the first that all have measured.
        reference: the run the others are compared with; by default that of strategy `greedy`, else the first.

    Returns:
        The comparison: `sections`, `document()`, `table()`.

    Raises:
        UsageError: a run is not finished, the runs measured something else, or one lacks what is asked for.
    """
    check_own_packages()
    from results.comparison import Comparison

    given = list({run.folder: run for run in opened_runs(runs)}.values())  # one named twice is listed once
    return Comparison(given, objective, None if reference is None else str(reference))


def report(
    runs: "Sequence[str | Path | Run]",
    path: str | Path = "report.html",
    *,
    objective: str | None = None,
    axes: str | None = None,
    pictures: str | Path | None = None,
) -> list[Path]:
    """Write pictures and tables of finished runs into one HTML file that needs nothing else to be read.

    Args:
        runs: of one model and text; what :func:`run` returned, or their folders.
        path: the file; an old one is replaced.
        objective: the one to show; by default the first.
        axes: x and y of the Pareto fronts, as `"kv-cache,perplexity"`: objectives, `size`, or what a plan leaves of
            the model.
        pictures: a folder in which to keep the pictures too, as PNG and SVG.

    Returns:
        The files written, the report first.

    Raises:
        UsageError: a run is not finished, the runs cannot stand beside each other, or one lacks what is asked for.
    """
    check_own_packages()
    from results.report import parse_axes, write_report

    across = None if axes is None else parse_axes(axes)
    return write_report(opened_runs(runs), Path(path), objective, across, None if pictures is None else Path(pictures))
