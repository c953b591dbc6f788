"""Where a plan comes from: a finished run, or the caller."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError

if TYPE_CHECKING:
    from results.run import Run
    from searcher.runs.identity import Origin


def opened_runs(runs: "Sequence[str | Path | Run]") -> "list[Run]":
    """Finished runs, of which some are given as folders."""
    from results.run import Run

    return [one if isinstance(one, Run) else Run(one) for one in runs]


def planned(
    run: "str | Path | Run | None", plan: str | None, size: int | None, options: dict[str, Any]
) -> "tuple[PrunePlan, dict[str, Any], Path, Origin | None]":
    """The plan of a run or one by hand, the options of measurement, the folder of runs, and the origin of the plan."""
    if (run is None) == (plan is None):
        raise UsageError("Give a run folder or a plan, one of them", "Such as runs/greedy, or --plan 3-5,9")
    if plan is not None:
        if size is not None:
            raise UsageError("--size chooses among the plans of a run, but a plan was given", "Leave it out")
        return PrunePlan.parse(plan), options, Path("runs"), None
    (opened,) = opened_runs([run])  # type: ignore[list-item]
    from searcher.runs.config import MeasurementConfig
    from searcher.runs.identity import origin_of

    measured = {name: value for name, value in opened.config.model_dump().items() if name in MeasurementConfig.kinds()}
    measured["heal"] = opened.config.healed_by
    chosen = opened.chosen_of(size).plan
    given = {name for name in ("data", "heal_data") if options.get(name) is not None}
    origin = origin_of(opened.folder, opened.record, chosen, given)
    return chosen, measured | options, opened.folder.parent, origin
