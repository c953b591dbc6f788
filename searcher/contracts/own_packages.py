"""`results`, `objectives` and `strategies` are common names: are the packages Python finds our own?"""

import importlib.util
from pathlib import Path

from searcher.errors import UsageError

NAMES = ("strategies", "objectives", "results")


def check_own_packages() -> None:
    """Look where the packages would come from, or came from, without importing them.

    Raises:
        UsageError: a module of the user's hides one of ours.
    """
    root = Path(__file__).resolve().parents[2]
    for name in NAMES:
        found = _place(name)
        if found != root / name / "__init__.py":
            raise UsageError(
                f"Python finds '{name}' in {found}, which hides the package of that name in searcher",
                "Rename that file or folder, or run from another folder",
            )


def _place(name: str) -> Path | None:
    """The file of a module, or the folder of a package without one."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    return Path(places[0]).resolve() if places else None
