"""`searcher cache`: what is kept between runs."""

from typing import Annotated

import typer

from searcher.contracts.own_packages import check_own_packages


def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete what was computed on dense models; it is computed again.")
    ] = False,
) -> None:
    """Show what is kept in the cache folder between runs, how much it takes, and where.

    What objectives look up in the dense model and its statistics are kept there up to SEARCHER_CACHE_LIMIT (1GiB; 0
    keeps nothing), those used last; so are GGUF files as they were converted, and the default model. SEARCHER_CACHE is
    the folder.

    Example: searcher cache --clear
    """
    check_own_packages()
    from results.cache_table import cache_lines
    from results.table import show
    from searcher.commands.cache import cache_contents, clear_dense

    if clear:
        clear_dense()
    show(*cache_lines(cache_contents()))
