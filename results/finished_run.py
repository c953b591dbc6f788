"""A run, read from its folder."""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from results.intervals import describe_interval, interval
from searcher.contracts import registry
from searcher.contracts.amounts import Amounts
from searcher.contracts.objective import Objective, Split
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.files import whole
from searcher.runs.journal import EVALUATIONS_FILE, RUN_FILE, read_evaluations
from searcher.runs.layout import layout_from_json
from searcher.runs.measurement import Measurements
from searcher.runs.run_file import read_config, read_run_file

WITH_PATHS = ("objective", "objective_args", "strategy", "strategy_args", "heal", "heal_final")
"""Fields in whose place the identity of a run has last names of paths; only the configuration finds these again."""


@dataclass(frozen=True)
class Estimate:
    """An objective's value with the ends of its 95% interval, None where there is none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Values:
    """What a plan scores on both splits; see :class:`Evaluation`."""

    search: dict[str, float]
    report: dict[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        report = {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in self.report.items()}
        return {"search": dict(self.search), "report": report}


@dataclass(frozen=True)
class Evaluation:
    """A plan with what was measured for it.

    Attributes:
        plan: what is removed.
        size: removed units, as the run counts them.
        search: value of each objective on the search split, on which plans are chosen.
        report: the same on the report split, which no choice has seen.
        healed: both after a healing fitted to this plan as a whole, where the run has measured that.
    """

    plan: PrunePlan
    size: int
    search: dict[str, float]
    report: dict[str, Estimate]
    healed: "Values | None" = None

    def to_json(self) -> dict[str, Any]:
        """The entry of a plan in the JSON document."""
        values = {"plan": str(self.plan), "size": self.size, **Values(self.search, self.report).to_json()}
        return values | ({"healed": self.healed.to_json()} if self.healed else {})


class FinishedRun:
    """A finished run, as its folder tells it.

    Args:
        folder: the run folder.

    Raises:
        UsageError: the folder holds no run, one that is not finished, or one of which something is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.record = read_run_file(self.folder)
        if self.record.get("outcome") is None:
            raise UsageError(
                f"{self.folder} is not finished", "Run the same command again; it goes on where it stopped"
            )
        self.config: RunConfig = read_config(self.folder / RUN_FILE, self.record)
        self.outcome: dict[str, Any] = self.record["outcome"]
        self._check_measured()

    def _check_measured(self) -> None:
        """Refuse a journal that lacks something of the plans that the run ended with."""
        ended = (*self.outcome["chosen"].values(), *self.outcome.get("front", ()))
        plans = tuple(dict.fromkeys([PrunePlan(), *map(PrunePlan.parse, ended)]))
        for split in ("search", "report"):
            for plan in plans:
                if lacking := self.measurements.lacking(split, plan):
                    raise UsageError(
                        f"{self.folder / EVALUATIONS_FILE} lacks a measurement of {lacking} for plan {plan} on the "
                        f"{split} split",
                        "Lines of it are gone: run the same command again, which measures what is missing",
                    )

    @cached_property
    def objectives(self) -> dict[str, Objective]:
        """By name, in the order of the run."""
        recipes = self.config.objective_specs
        return {label: registry.make("objective", name, options) for label, (name, options) in recipes.items()}

    @cached_property
    def measurements(self) -> Measurements:
        """Every value the run has measured."""
        measurements = Measurements(layout_from_json(self.record["layout"]))
        for line in read_evaluations(self.folder):
            measurements.add(line)
        return measurements

    @cached_property
    def amounts(self) -> dict[str, Amounts]:
        """What the parts of the model take, by name; runs of older versions have not kept it."""
        return {name: Amounts.from_json(content) for name, content in self.record.get("sizes", {}).items()}

    def documents(self, split: str, name: str) -> list[int] | None:
        """The document that each number of an objective comes from, if it reads the windows; None if each is alone."""
        known: list[int] | None = self.record.get("documents", {}).get(split)
        return known if self.objectives[name].reads == "windows" else None

    @property
    def text_names(self) -> tuple[str, ...]:
        """What each text is called, if there are several; else the name of the only one."""
        texts = self.record.get("texts")
        return tuple(texts["names"]) if texts else (self.record["text"],)

    def texts(self, split: str) -> tuple[int, ...]:
        """The number of the text that each window of a split is of, if there are several; else nothing."""
        texts = self.record.get("texts")
        return tuple(texts["windows"][split]) if texts else ()

    def interval_in_words(self, name: str) -> str:
        """What kind of interval the values of an objective on the report split have."""
        return describe_interval(self.objectives[name], self.measurements.rows("report", PrunePlan(), name))

    def evaluation(self, plan: PrunePlan) -> Evaluation:
        """What was measured for a plan on both splits, and after healing."""
        plain, known = self._values(plan, "search", "report"), self.measurements
        healed = "healed-report" in known.layout and known.complete("healed-report", plan)
        return Evaluation(
            plan,
            plan.size(self.config.granularity),
            plain.search,
            plain.report,
            self._values(plan, "healed-search", "healed-report") if healed else None,
        )

    def _values(self, plan: PrunePlan, searched: Split, judged: Split) -> Values:
        report = {}
        for name, objective in self.objectives.items():
            rows = self.measurements.rows(judged, plan, name)
            report[name] = Estimate(objective.value(rows), *interval(objective, rows, self.documents("report", name)))
        search = {n: o.value(self.measurements.rows(searched, plan, n)) for n, o in self.objectives.items()}
        return Values(search, report)

    @cached_property
    def dense(self) -> Evaluation:
        """The whole model."""
        return self.evaluation(PrunePlan())

    @cached_property
    def chosen(self) -> tuple[Evaluation, ...]:
        """The chosen plan of each size, ascending."""
        return tuple(self.evaluation(PrunePlan.parse(plan)) for plan in self.outcome["chosen"].values())

    @property
    def best(self) -> Evaluation:
        """The chosen plan of the full size asked for."""
        return next(e for e in self.chosen if e.size == self.outcome["size"])

    def chosen_of(self, size: int | None = None) -> Evaluation:
        """The chosen plan of a size, by default of the full one.

        Raises:
            UsageError: the run has chosen none of this size.
        """
        if size is None:
            return self.best
        for evaluation in self.chosen:
            if evaluation.size == size:
                return evaluation
        sizes = ", ".join(str(evaluation.size) for evaluation in self.chosen)
        raise UsageError(f"{self.folder} chose no plan of size {size}", f"There are plans of size {sizes}")

    def front(self) -> tuple[Evaluation, ...]:
        """The plans that no other beats on the search split in every objective, ascending by size.

        The size is an objective too, unless another one says how much of the model is left; plans that miss a bound are
        left out. With several objectives all measured plans compete, with one the chosen ones.
        """
        plans = map(PrunePlan.parse, self.outcome.get("front", self.outcome["chosen"].values()))
        return tuple(sorted(map(self.evaluation, plans), key=lambda e: (e.size, e.plan)))

    def document(self) -> dict[str, Any]:
        """The JSON document of `--format json`."""
        config, identity = self.record["config"], self.record["identity"]
        named = {name: config[name] for name in WITH_PATHS if name in config}
        return {
            "run": str(self.folder),
            "config": config | identity | named,
            "dense": self.dense.to_json(),
            "best": self.best.to_json(),
            "front": [e.to_json() for e in self.front()],
            "cost": self.outcome["cost"],
            **({"rounds": self.outcome["rounds"]} if "rounds" in self.outcome else {}),
        }

    def write_front(self) -> Path:
        """Write `front.csv` into the run folder: a row per plan of the front, the dense model first."""
        path = self.folder / "front.csv"
        columns = [f"{kind}_{name}" for name in self.objectives for kind in ("search", "report", "low", "high")]
        with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["size", "plan", *columns])
            for e in (self.dense, *self.front()):
                values = [(e.search[n], r.value, r.low, r.high) for n, r in e.report.items()]
                writer.writerow([e.size, e.plan, *(number for numbers in values for number in numbers)])
        return path
