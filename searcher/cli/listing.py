"""`searcher list`: the strategies, objectives, healings and runs there are."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from searcher.contracts.own_packages import check_own_packages
from searcher.contracts.plan import Granularity
from searcher.errors import UsageError


def list_(
    what: Annotated[Literal["strategies", "objectives", "healings", "runs"], typer.Argument(help="What to list.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what each does, and every option.")] = False,
    budget: Annotated[
        str | None, typer.Option(help="Show what each strategy costs for this budget, such as 8 or 1-8.")
    ] = None,
    granularity: Annotated[
        Granularity | None, typer.Option(help="Units of that budget. Default: block.", show_default=False)
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(help="Blocks of the model it is for. Default: 30.", min=1, show_default=False)
    ] = None,
    runs_dir: Annotated[
        str | None, typer.Option(help="Where run folders are. Default: runs.", show_default=False)
    ] = None,
) -> None:
    """List the strategies, objectives and healings there are, or the runs you have made.

    Example: searcher list strategies --verbose --budget 25% --granularity sublayer --blocks 32
    """
    check_own_packages()
    if budget is not None and what != "strategies":
        raise UsageError(f"--budget says what strategies cost, but {what} are listed", "Leave it out")
    for flag, value in (("--granularity", granularity), ("--blocks", blocks)):
        if value is not None and budget is None:
            raise UsageError(
                f"{flag} {value} says what a --budget is counted in, and there is none",
                f"Write searcher list strategies --budget 8 {flag} {value}, or leave it out",
            )
    if runs_dir is not None and what != "runs":
        raise UsageError(f"--runs-dir says where runs are, but {what} are listed", "Leave it out")
    from results.listing import costs_table, plugin_lines, run_lines
    from results.table import show
    from searcher.contracts.registry import PLURAL, Kind

    if what == "runs":
        show(*run_lines(Path(runs_dir or "runs")))
    else:
        kinds: dict[str, Kind] = {plural: kind for kind, plural in PLURAL.items()}
        show(*plugin_lines(kinds[what], verbose))
    if budget is not None:
        show(costs_table(budget, granularity or Granularity.BLOCK, blocks or 30))
