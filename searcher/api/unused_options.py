"""Which options of measurement each entry point has a use for, said once for the command line and for Python."""

from collections.abc import Iterable, Mapping
from typing import Literal

from searcher.errors import UsageError

Entry = Literal["run", "evaluate", "heal", "export", "best_model", "analyze"]

_WORKERS = ("workers", "ray_address")
_HEALING = ("heal", "heal_windows", "heal_data", "heal_answers")
_NOTHING_MEASURED = (
    "objective",
    "objective_args",
    "windows",
    "report_windows",
    "data_seed",
    "memory",
    "weights",
    *_WORKERS,
)

NOT_TAKEN: Mapping[Entry, tuple[str, ...]] = {
    "run": (),
    "evaluate": (),
    "heal": ("windows", "data_seed", *_WORKERS),
    "export": ("quantize", *_NOTHING_MEASURED),  # what is written has the weights of the checkpoint
    "best_model": _NOTHING_MEASURED,
    "analyze": (*_HEALING, "objective", "objective_args", "report_windows", "weights", *_WORKERS),
}
"""Fields of :class:`searcher.runs.config.MeasurementConfig` that would change nothing there, and are refused."""


def check_options(entry: Entry, given: Iterable[str]) -> None:
    """Refuse what would be read and then ignored.

    Raises:
        UsageError: an option is of no use there.
    """
    for option in given:
        if option in NOT_TAKEN[entry]:
            raise UsageError(f"searcher.{entry} has no option '{option}': it would change nothing", "Leave it out")
