"""A finished run as an Optuna study."""

from results.finished_run import FinishedRun
from searcher.commands.optuna_mirror import Say, mirror_finished
from searcher.commands.optuna_trials import Mirrored
from searcher.contracts.plan import PrunePlan
from searcher.search.goals import make_goals


def mirror(run: FinishedRun, url: str, say: Say) -> int:
    """Write a run into the Optuna study of its name, or add what the study lacks.

    Args:
        run: the run.
        url: of the database, as SQLAlchemy writes it.
        say: is told what there is to wait for.

    Returns:
        How many plans the study then has.

    Raises:
        UsageError: the database cannot be reached or written, or its study of that name is of another run.
    """
    dense = {label: run.measurements.rows("search", PrunePlan(), label) for label in run.objectives}
    goals = make_goals(run.config, run.objectives, dense, run.texts("search"))
    name = run.folder.resolve().name
    return mirror_finished(url, Mirrored(name, run.record, run.config, goals, run.measurements), run.outcome, say)
