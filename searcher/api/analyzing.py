"""What the blocks of a model do: `searcher.analyze`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searcher.api.unused_options import check_options
from searcher.contracts.own_packages import check_own_packages
from searcher.contracts.plan import Granularity


def analyze(
    *,
    parts: Sequence[str] | None = None,
    granularity: Granularity | str = Granularity.BLOCK,
    budget: int = 4096,
    index: str = "k-SII",
    name: str | None = None,
    runs_dir: str | Path = "runs",
    quiet: bool = False,
    **options: Any,
) -> Path:
    """Measure what the blocks of a model do, and keep it as arrays, pictures and a page; goes on where it was left.

    Args:
        parts: some of `searcher.anatomy.parts.PARTS`; by default all but `shapley`.
        granularity: units that are compared with each other.
        budget: plans that Shapley interactions may measure.
        index: `k-SII` or `FSII`.
        name: of the folder; by default made from the options.
        runs_dir: where the folder is.
        quiet: show no progress on stderr.
        options: model, data, windows and the like, as for :func:`run`.

    Returns:
        The folder. `analysis.html` in it shows all parts measured so far, `PART.npz`, `PART.png` and `PART.svg` hold
        the arrays and the picture of one.

    Raises:
        UsageError: a part or option does not fit, or a file of the folder is damaged.
    """
    check_own_packages()
    from results.anatomy import write_analysis_page
    from searcher.anatomy.parts import PARTS
    from searcher.commands.analyze import Wanted
    from searcher.commands.analyze import analyze as measure
    from searcher.commands.progress import Progress
    from searcher.runs.config import MeasurementConfig
    from searcher.runs.options import make_config

    check_options("analyze", options)
    wanted = Wanted(Granularity(granularity), tuple(parts or PARTS[:-1]), budget, index)
    config = make_config(MeasurementConfig, options)
    with Progress(quiet) as progress:
        folder = measure(config, wanted, Path(runs_dir), name, progress)
        progress.say("Drawing")
        write_analysis_page(folder)
    return folder
