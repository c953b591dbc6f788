"""The pictures of a report, and how they are kept as files."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from results.axes import default_axes
from results.comparable import check_comparable, common_objectives, same_search
from results.finished_run import FinishedRun
from results.pictures.convergence import convergence
from results.pictures.fronts import pareto_front
from results.pictures.quality import quality_against_size
from results.pictures.shapley import shapley_picture
from results.pictures.strips import removed_units
from searcher.errors import UsageError, did_you_mean
from searcher.runs.files import hint_of, whole

DOTS_PER_INCH = 160
"""Of PNG files, and of what is drawn as an image in an SVG."""


def make_pictures(
    runs: Sequence[FinishedRun], objective: str | None = None, axes: tuple[str, str] | None = None
) -> dict[str, Figure]:
    """Everything there is to see in these runs, by name: quality, front, units, convergence, shapley.

    Front, convergence and Shapley values show scores on the search windows: they are left out where runs have others.

    Args:
        runs: of one model and text.
        objective: which one to show; the first by default.
        axes: x and y of the front; by default what is left of the model, and the objective.

    Raises:
        UsageError: the runs were not measured alike, or one does not measure the objective or cannot show an axis.
    """
    if not runs:
        raise UsageError("There is no run to show", "Name one or more run folders")
    check_comparable(runs, other_search=True)
    if objective is not None:
        check_objective(runs, objective)
    name = objective or common_objectives(runs)[0]
    across = axes or default_axes(runs, name)
    alike = all(same_search(runs[0], run) for run in runs)
    figures = {
        "quality": quality_against_size(runs, name),
        "front": pareto_front(runs, *across) if across and alike else None,
        "units": removed_units(runs),
        "convergence": convergence(runs, name) if alike else None,
        "shapley": shapley_picture(runs) if alike else None,
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def check_objective(runs: Sequence[FinishedRun], objective: str) -> None:
    """Raises UsageError if a run does not measure it."""
    for run in runs:
        if objective not in run.objectives:
            raise UsageError(
                f"{run.folder} does not measure objective '{objective}'",
                f"{did_you_mean(objective, run.objectives)}It measures {', '.join(run.objectives)}",
            )


def describe(figure: Figure) -> str:
    """What is written above and below a picture, for those who cannot see it."""
    text = f"{figure.get_suptitle()}. {figure.get_supxlabel()}"
    return " ".join(text.replace(r"\$", "$").split())


def to_svg(figure: Figure) -> bytes:
    """The picture as SVG, letters as shapes so that it looks the same everywhere; the same bytes every time."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "searcher"}):
        figure.savefig(buffer, format="svg", dpi=DOTS_PER_INCH, metadata={"Date": None})
    return buffer.getvalue()


def write_pictures(pictures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write each picture as PNG and SVG; returns the files.

    Raises:
        UsageError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be made ({error.strerror})", hint_of(error, "Name another folder for the pictures")
        ) from error
    written = []
    for name, figure in pictures.items():
        for suffix in ("png", "svg"):
            path = folder / f"{name}.{suffix}"
            with whole(path) as temporary:
                if suffix == "svg":
                    temporary.write_bytes(to_svg(figure))
                else:
                    figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)
            written.append(path)
    return written
