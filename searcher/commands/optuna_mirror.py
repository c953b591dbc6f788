"""A run as an Optuna study in a database, for optuna-dashboard and all else that reads one: while it goes on, or later.

A trial is a plan measured in full on the search split. Its parameters are the units, kept or removed, and its values
are the objectives searched for, so that the study's best trials are the run's front.
"""

import contextlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from searcher.contracts.optuna_log import quiet_optuna
from searcher.contracts.plan import PrunePlan, Unit, legal_units
from searcher.errors import UsageError, first_line
from searcher.runs.config import RunConfig
from searcher.runs.measurement import Measurement, Measurements, to_plain_json
from searcher.runs.notation import without_password
from searcher.search.goals import Goals

DRIVER = "postgresql+psycopg"
POSTGRESQL = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
"""Seconds to wait for a server, and milliseconds for an answer from one whose network is gone."""
SQLITE = {"timeout": 30}
"""Seconds to wait for another writer."""
REMOVED_UNITS = "removed units"
"""Name of the value that is searched for besides the objectives, where none of them says how small the model gets."""
LOST = (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError)
"""What is raised when a database does not answer, or does not take what it is given."""

Say = Callable[[str], None]
Direction = Literal["minimize", "maximize"]


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


@dataclass(frozen=True)
class Mirrored:
    """What of a run a study shows.

    Attributes:
        name: of the run folder, and of the study.
        record: what is in `run.json`.
        config: of the run.
        goals: what is searched for.
        known: all values so far; may grow.
    """

    name: str
    record: Mapping[str, Any]
    config: RunConfig
    goals: Goals
    known: Measurements

    @property
    def units(self) -> tuple[Unit, ...]:
        """What may be removed."""
        return legal_units(self.record["num_blocks"], self.config.granularity, PrunePlan.parse(self.config.keep))

    @property
    def values(self) -> dict[str, Direction]:
        """Direction of each value of a trial, by name."""
        objectives = {label: self.goals.objectives[label] for label in self.goals.labels}
        directions: dict[str, Direction] = {
            label: "minimize" if objective.lower_is_better else "maximize" for label, objective in objectives.items()
        }
        if self.goals.size_counts:
            directions[REMOVED_UNITS] = "maximize"
        return directions

    @property
    def attributes(self) -> dict[str, Any]:
        """What the study says of the run as a whole, as it comes back from the database."""
        content = {
            "model": self.record["model"],
            "text": self.record["text"],
            "configuration": self.record["identity"],
            "dense": self.measured("search", PrunePlan()),
        }
        return dict(json.loads(json.dumps(to_plain_json(content))))

    def plans(self) -> list[PrunePlan]:
        """The plans measured in full so far, in that order; the dense model is none."""
        return [plan for plan in self.known.in_order("search") if plan.removed]

    def measured(self, split: Any, plan: PrunePlan) -> dict[str, float]:
        """Value of each objective, by label."""
        return {n: o.value(self.known.rows(split, plan, n)) for n, o in self.goals.objectives.items()}

    def trial(self, plan: PrunePlan) -> FrozenTrial:
        """The plan as a trial; a failed one if an objective found no number, for which Optuna has no place."""
        size, measured = plan.size(self.config.granularity), self.measured("search", plan)
        broken = {label: measured[label] for label in self.goals.labels if not np.isfinite(measured[label])}
        removed = set(plan.units(self.config.granularity))
        attributes: dict[str, Any] = {
            "plan": str(plan),
            "size": size,
            "units": [str(unit) for unit in sorted(removed)],
            **{f"search {n}": to_plain_json(v) for n, v in measured.items() if n not in self.goals.labels or broken},
        }
        if self.known.complete("report", plan):
            attributes |= {f"report {n}": to_plain_json(v) for n, v in self.measured("report", plan).items()}
        if broken:
            found = ", ".join(f"{label} is {value}" for label, value in broken.items())
            attributes["reason"] = f"The plan breaks the model: {found}"
        values = [float(measured.get(name, size)) for name in self.values]
        choice = CategoricalDistribution(("kept", "removed"))
        distributions: dict[str, BaseDistribution] = {_name(unit): choice for unit in self.units}
        return create_trial(
            state=TrialState.FAIL if broken else TrialState.COMPLETE,
            values=None if broken else values,
            params={_name(unit): "removed" if unit in removed else "kept" for unit in self.units} | {"size": size},
            distributions=distributions | {"size": IntDistribution(1, len(self.units))},
            user_attrs=attributes,
            system_attrs=self._constraints(measured),
        )

    def _constraints(self, measured: Mapping[str, float]) -> dict[str, Any]:
        """How far each bound is missed, as Optuna's samplers write it: above 0 is."""
        excesses = [bound.excess(measured[bound.label]) for bound in self.goals.bounds]
        return {"constraints": [min(excess, sys.float_info.max) for excess in excesses]} if excesses else {}


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


def _name(unit: Unit) -> str:
    text = str(unit)
    return f"block {text}" if text.isdigit() else text


def _reason(error: BaseException) -> str:
    """What the database says, not what SQLAlchemy and Optuna say around it."""
    inner = error
    while (cause := getattr(inner, "orig", None) or inner.__cause__) is not None:
        inner = cause
    return first_line(inner)
