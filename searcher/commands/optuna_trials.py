"""A run as the trials of an Optuna study: a plan is a trial, its units are parameters."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from searcher.contracts.plan import PrunePlan, Unit, legal_units
from searcher.runs.config import RunConfig
from searcher.runs.measurement import Measurements, to_plain_json
from searcher.search.goals import Goals

REMOVED_UNITS = "removed units"
"""Name of the value that is searched for besides the objectives, where none of them says how small the model gets."""
Direction = Literal["minimize", "maximize"]


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


def _name(unit: Unit) -> str:
    text = str(unit)
    return f"block {text}" if text.isdigit() else text
