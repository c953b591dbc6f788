"""Searching for plans, and measuring some: `searcher.run`, `load_run`, `evaluate`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from searcher.contracts.own_packages import check_own_packages
from searcher.contracts.plan import PrunePlan

if TYPE_CHECKING:
    from results.run import Run


def run(*, quiet: bool = False, **options: Any) -> "Run":
    """Search for the plan to remove, or resume that search, and judge the outcome on unseen text.

    Args:
        quiet: show no progress on stderr.
        options: as on the command line, with underscores: `strategy="shapley", budget=8, objective=["perplexity"]`;
            see `searcher.runs.config.RunConfig` for all of them.

    Returns:
        The finished run: `run.best`, `run.front()`, `run.document()`.

    Raises:
        UsageError: an option is unknown or does not fit; the message says what to do.
    """
    check_own_packages()
    from searcher.commands.progress import Progress
    from searcher.commands.run import execute
    from searcher.runs.config import RunConfig
    from searcher.runs.options import make_config

    config = make_config(RunConfig, options)
    with Progress(quiet) as progress:
        folder = execute(config, progress)
    finished = load_run(folder)
    finished.write_front()
    return finished


def load_run(folder: Any) -> "Run":
    """A finished run from its folder, without running anything.

    Raises:
        UsageError: the folder holds no finished run.
    """
    check_own_packages()
    from results.run import Run

    return Run(folder)


def evaluate(plans: Sequence[str], *, split: str = "report", quiet: bool = False, **options: Any) -> dict[str, Any]:
    """Measure plans by hand, in the order asked.

    Args:
        plans: such as `"3-5,9"`, `"12.attn"`, `"dense"`.
        split: `report`, or `search`.
        quiet: show no progress on stderr.
        options: the measurement options of :func:`run`: model, data, windows, objective, …

    Returns:
        `{"evaluations": [{"plan", "size", "values": {objective: value}}]}`.

    Raises:
        UsageError: a plan or an option does not fit.
    """
    check_own_packages()
    from searcher.commands.evaluate import measure_plans
    from searcher.commands.progress import Progress
    from searcher.runs.config import MeasurementConfig
    from searcher.runs.options import make_config

    config = make_config(MeasurementConfig, options)
    with Progress(quiet) as progress:
        return measure_plans(config, [PrunePlan.parse(plan) for plan in plans], split, progress).to_json()
