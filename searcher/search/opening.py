"""The space of a search, and its starting plan, from the configuration of a run."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from searcher.contracts.amounts import Amounts
from searcher.contracts.plan import Budget, Part, PrunePlan, Unit, legal_units
from searcher.contracts.space import Need, Space
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.journal import RUN_FILE
from searcher.runs.notation import parse_bound
from searcher.runs.run_file import read_run_file


def find_start(text: str) -> PrunePlan:
    """The plan that a search starts from: written out, or the best of a finished run whose folder this is.

    Raises:
        UsageError: it is neither.
    """
    folder = Path(text)
    if not (folder / RUN_FILE).exists():
        return PrunePlan.parse(text)
    outcome = read_run_file(folder).get("outcome")
    if not outcome:
        raise UsageError(f"The run in {folder} is not finished, so there is no plan to start from", "Finish it first")
    return PrunePlan.parse(outcome["chosen"][str(outcome["size"])])


def open_space(
    config: RunConfig, num_blocks: int, num_windows: int, amounts: Mapping[str, Amounts] | None = None
) -> Space:
    """The space that the configuration describes, for a model of this many blocks, without limits or statistics yet.

    Bounds on amounts, which follow from the plan, become needs; other bounds are only known when a plan is measured.

    Raises:
        UsageError: there are too few legal units for the budget, no plan of that size keeps to a bound, or the starting
            plan is not legal.
    """
    units = legal_units(num_blocks, config.granularity, PrunePlan.parse(config.keep))
    limits = {Part.ATTENTION: config.max_attention, Part.FFN: config.max_ffn}
    amounts = amounts or {}
    space = Space(
        num_blocks=num_blocks,
        granularity=config.granularity,
        units=units,
        sizes=Budget(config.budget).sizes(len(units)),
        num_windows=num_windows,
        seed=config.seed,
        fits=lambda plans, spare=0, windows=None, then=(): True,
        limited=any(limit is not None for limit in config.of_kind("limit").values()),
        goals=1 if config.weight else len(config.searched),
        most={part: most for part, most in limits.items() if most is not None},
        needs=tuple(_need(text, amounts[name], units) for name, text in _on_amounts(config, amounts)),
        start=None if config.start is None else PrunePlan.parse(config.start),
        racing=config.racing,
        screening=config.screening,
    )
    _check_most(config, space)
    _check_needs(config, space, amounts)
    _check_start(space)
    return space


def _check_most(config: RunConfig, space: Space) -> None:
    if space.size > space.largest:
        raise UsageError(
            f"Budget '{config.budget}' asks for {space.size} units, but with --max-attention and --max-ffn only "
            f"{space.largest} can be removed",
            "Ask for less, or raise them",
        )


def _on_amounts(config: RunConfig, amounts: Mapping[str, Amounts]) -> list[tuple[str, str]]:
    """Name and text of each bound on an amount."""
    named = ((config.objective_specs[label][0], text) for label, text in config.at_most.items())
    return [(name, text) for name, text in named if name in amounts]


def _need(text: str, amounts: Amounts, units: tuple[Unit, ...]) -> Need:
    number, relative = parse_bound("", text)
    limit = number * amounts.whole if relative else number
    return Need({unit: amounts.of(unit) for unit in units}, amounts.whole - limit)


def _check_needs(config: RunConfig, space: Space, amounts: Mapping[str, Amounts]) -> None:
    if space.feasible:
        return
    bounds = [f"{name}={text}" for name, text in _on_amounts(config, amounts)]
    wholes = [amounts[name].whole for name, _ in _on_amounts(config, amounts)]
    saved = [space.most_saved(need) for need in space.needs]
    missed = [i for i, need in enumerate(space.needs) if saved[i] < need.least]
    least = ", ".join(f"{bounds[i].partition('=')[0]}={_percent(1 - saved[i] / wholes[i])}" for i in missed)
    told = " and ".join(f"--at-most {bounds[i]}" for i in missed or range(len(bounds)))
    hint = f"The least that can be left is {least}" if missed else "Each alone can be kept to, not all together"
    enough = next((size for size in range(space.size + 1, space.largest + 1) if _with_size(space, size).feasible), None)
    more = f", or set --budget to {enough}" if enough else ""
    raise UsageError(f"No plan that removes {space.size} units keeps to {told}", f"{hint}: raise the bound{more}")


def _percent(share: float) -> str:
    """Rounded up to a tenth of a percent, so that this bound can be kept to."""
    return f"{math.ceil(share * 1000 - 1e-9) / 10:g}%"


def _with_size(space: Space, size: int) -> Space:
    return dataclasses.replace(space, sizes=(size,))


def _check_start(space: Space) -> None:
    if space.start is None:
        return
    space.start.check(space.num_blocks)
    if not space.allows(space.start):
        raise UsageError(
            f"The starting plan {space.start} removes units that are protected, or too many of a kind, or misses a "
            "bound",
            "Change --start, --keep, --max-attention, --max-ffn or --at-most",
        )
    if space.size_of(space.start) not in space.sizes:
        raise UsageError(
            f"The starting plan {space.start} removes {space.size_of(space.start)} units, the budget "
            f"{' to '.join(map(str, dict.fromkeys((space.sizes[0], space.size))))}",
            "Start from a plan of a size that is asked for",
        )
