"""Optuna without its log and warnings, where what it would say is no news to a user."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_optuna(ignored: type[Warning] = Warning) -> Iterator[None]:
    """Keep Optuna's log, and warnings of this kind, from the user as long as a `with` statement lasts."""
    import optuna  # takes a second

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ignored)
            yield
    finally:
        optuna.logging.set_verbosity(before)
