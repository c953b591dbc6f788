"""A run as an Optuna study in a database, for optuna-dashboard and all else that reads one: while it goes on, or later.

A trial is a plan measured in full on the search split. Its parameters are the units, kept or removed, and its values
are the objectives searched for, so that the study's best trials are the run's front.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from searcher.commands.optuna_trials import Mirrored
from searcher.contracts.optuna_log import quiet_optuna
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError, first_line
from searcher.runs.measurement import Measurement, to_plain_json
from searcher.runs.notation import without_password

DRIVER = "postgresql+psycopg"
POSTGRESQL = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
"""Seconds to wait for a server, and milliseconds for an answer from one whose network is gone."""
SQLITE = {"timeout": 30}
"""Seconds to wait for another writer."""
LOST = (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError)
"""What is raised when a database does not answer, or does not take what it is given."""

Say = Callable[[str], None]


def open_database(url: str) -> RDBStorage:
    """Connect to a database, and make Optuna's tables if it has none.

    Args:
        url: of SQLAlchemy; PostgreSQL is reached through psycopg 3 unless it names another driver.

    Raises:
        UsageError: it cannot be reached, or holds something else; names the URL without its password.
    """
    shown = without_password(url)
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername=DRIVER)
        patience = {DRIVER: POSTGRESQL, "sqlite": SQLITE}.get(parsed.drivername, {})
        with quiet_optuna(ExperimentalWarning):
            return RDBStorage(parsed.render_as_string(hide_password=False), {"connect_args": dict(patience)})
    except (ArgumentError, NoSuchModuleError, ValueError) as error:  # their messages may hold the URL
        raise UsageError(
            f"{shown} is no database that Optuna can use",
            "Write it as sqlite:///study.db or postgresql://user:password@host/name",
        ) from error
    except ImportError as error:
        raise UsageError(
            f"The driver for {shown} is not installed", 'For PostgreSQL: pip install "pruneplan[postgresql]"'
        ) from error
    except RuntimeError as error:  # tables of another version of Optuna
        raise UsageError(
            f"The database {shown} cannot be used ({first_line(error)})", "Use a new one, or upgrade it with Optuna"
        ) from error
    except LOST as error:
        raise UsageError(
            f"The database {shown} cannot be reached ({_reason(error)})",
            "Start it or mend the URL; or leave --optuna out and mirror the finished run with searcher convert",
        ) from error


class Mirror(contextlib.AbstractContextManager["Mirror"]):
    """Writes a run into its study, by a thread of its own; use it in a `with` statement.

    A trial takes tens of milliseconds, so that the search is not made to wait. A database that goes away is given up
    with one warning; what it lacks is added when the run is mirrored again. Plans that the study has are left alone.

    Args:
        storage: of :func:`open_database`.
        run: what is shown.
        warn: is told in one line if the database goes away.
        say: is told if there is something to wait for at the end.

    Raises:
        UsageError: the study of this name is not of this run, or the database has gone already.
    """

    def __init__(self, storage: RDBStorage, run: Mirrored, warn: Say, say: Say) -> None:
        self._run, self._warn, self._say = run, warn, say
        self._shown = without_password(storage.url)
        self.gone = ""
        """Why the database was given up, if it was."""
        self._writes: deque[Future[None]] = deque()
        try:
            self._study = _open_study(storage, run)
            self._there = _plans_there(self._study)
        except LOST as error:
            raise UsageError(
                f"The database {self._shown} cannot be written ({_reason(error)})",
                "Mend it, or leave --optuna out and mirror the finished run with searcher convert",
            ) from error

    def __enter__(self) -> "Mirror":
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._offer(self._run.plans())
        return self

    def heard(self, line: Measurement) -> None:
        """A measurement was kept: is its plan now measured in full?"""
        if line.split == "search" and line.plan.removed and self._run.known.complete("search", line.plan):
            self._offer([line.plan])

    def _offer(self, plans: Iterable[PrunePlan]) -> None:
        for plan in plans:
            if plan not in self._there:
                self._there.add(plan)
                self._writes.append(self._thread.submit(self._try, partial(self._add, plan)))

    def _add(self, plan: PrunePlan) -> None:
        self._study.add_trial(self._run.trial(plan))

    def _try(self, write: Callable[[], None]) -> None:
        if self.gone:
            return
        try:
            write()
        except LOST as error:
            self.gone = _reason(error)
            self._warn(
                f"The database {self._shown} has gone ({self.gone}); the run goes on without it. Complete the "
                f"study afterwards: searcher convert RUN --optuna URL"
            )

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Write what is still waiting, and what the run ended with: chosen plans, front, report values."""
        if (left := sum(not write.done() for write in self._writes)) and not self.gone:
            self._say(f"Writing {left} more plans to the Optuna study")
        while self._writes:
            self._writes.popleft().result()
        self._try(partial(self._conclude, outcome))

    def _conclude(self, outcome: Mapping[str, Any]) -> None:
        known, chosen = self._run.known, outcome["chosen"]
        report = {str(plan): to_plain_json(self._run.measured("report", plan)) for plan in known.plans("report")}
        front = outcome.get("front", list(chosen.values()))
        for name, content in (("chosen", chosen), ("front", front), ("report", report)):
            self._study.set_user_attr(name, content)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)  # if the search was interrupted, the same command adds the rest


def mirror_finished(url: str, run: Mirrored, outcome: Mapping[str, Any], say: Say) -> int:
    """Mirror a finished run, or add what its study lacks; returns how many plans the study then has.

    Raises:
        UsageError: the database cannot be reached or written, or the study is of another run.
    """
    with Mirror(open_database(url), run, lambda _: None, say) as mirror:
        mirror.finish(outcome)
    if mirror.gone:
        raise UsageError(
            f"The database {without_password(url)} has gone while it was written ({mirror.gone})",
            "Mend that, and run this again: it adds what is missing",
        )
    return len(run.plans())


def _open_study(storage: RDBStorage, run: Mirrored) -> optuna.Study:
    with quiet_optuna(ExperimentalWarning):
        study = optuna.create_study(
            storage=storage, study_name=run.name, directions=[*run.values.values()], load_if_exists=True
        )
        before, ours = study.user_attrs, run.attributes
        directions = [direction.name.lower() for direction in study.directions]
        other = directions != list(run.values.values()) or before.get("configuration") != ours["configuration"]
        if (before or study.trials) and other:
            raise UsageError(
                f"The study '{run.name}' in {without_password(storage.url)} is not of this run",
                "Use another database, or give the run another --name",
            )
        if list(study.metric_names or ()) != list(run.values):
            study.set_metric_names(list(run.values))
    for name, content in ours.items():
        if before.get(name) != content:
            study.set_user_attr(name, content)
    return study


def _plans_there(study: optuna.Study) -> set[PrunePlan]:
    texts = (trial.user_attrs.get("plan") for trial in study.get_trials(deepcopy=False))
    return {PrunePlan.parse(text) for text in texts if text}


def _reason(error: BaseException) -> str:
    """What the database says, not what SQLAlchemy and Optuna say around it."""
    inner = error
    while (cause := getattr(inner, "orig", None) or inner.__cause__) is not None:
        inner = cause
    return first_line(inner)
