"""The space of a search, and its starting plan, from the configuration of a run."""

from pathlib import Path

from searcher.config import RunConfig
from searcher.errors import UsageError
from searcher.journal import RUN_FILE, read_json
from searcher.plan import Budget, Part, PrunePlan, legal_units
from searcher.space import Space


def find_start(text: str) -> PrunePlan:
    """The plan that a search starts from: written out, or the best of a finished run whose folder this is.

    Raises:
        UsageError: it is neither.
    """
    folder = Path(text)
    if not (folder / RUN_FILE).exists():
        return PrunePlan.parse(text)
    outcome = read_json(folder / RUN_FILE).get("outcome")
    if not outcome:
        raise UsageError(f"The run in {folder} is not finished, so there is no plan to start from", "Finish it first")
    return PrunePlan.parse(outcome["chosen"][str(outcome["size"])])


def open_space(config: RunConfig, num_blocks: int, num_windows: int) -> Space:
    """The space that the configuration describes, for a model of this many blocks, without limits or statistics yet.

    Raises:
        UsageError: there are too few legal units for the budget, or the starting plan is not legal.
    """
    units = legal_units(num_blocks, config.granularity, PrunePlan.parse(config.keep))
    limits = {Part.ATTENTION: config.max_attention, Part.FFN: config.max_ffn}
    space = Space(
        num_blocks=num_blocks,
        granularity=config.granularity,
        units=units,
        sizes=Budget(config.budget).sizes(len(units)),
        num_windows=num_windows,
        seed=config.seed,
        fits=lambda plans, spare=0: True,
        limited=any(limit is not None for limit in config.of_kind("limit").values()),
        most={part: most for part, most in limits.items() if most is not None},
        start=None if config.start is None else PrunePlan.parse(config.start),
        racing=config.racing,
        screening=config.screening,
    )
    _check_most(config, space)
    _check_start(space)
    return space


def _check_most(config: RunConfig, space: Space) -> None:
    if space.size > space.largest:
        raise UsageError(
            f"Budget '{config.budget}' asks for {space.size} units, but with --max-attention and --max-ffn only "
            f"{space.largest} can be removed",
            "Ask for less, or raise them",
        )


def _check_start(space: Space) -> None:
    if space.start is None:
        return
    space.start.check(space.num_blocks)
    if not space.allows(space.start):
        raise UsageError(
            f"The starting plan {space.start} removes units that are protected, or too many of a kind",
            "Change --start, --keep, --max-attention or --max-ffn",
        )
    if space.size_of(space.start) not in space.sizes:
        raise UsageError(
            f"The starting plan {space.start} removes {space.size_of(space.start)} units, the budget "
            f"{' to '.join(map(str, dict.fromkeys((space.sizes[0], space.size))))}",
            "Start from a plan of a size that is asked for",
        )
