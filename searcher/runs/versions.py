"""The versions that numbers depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "pruneplan"
"""What the package that holds `searcher` is called on the package index, where `searcher` is another project."""
_PACKAGES = {"searcher": DISTRIBUTION} | {one: one for one in ("torch", "transformers", "tokenizers", "numpy", "scipy")}


def versions() -> dict[str, str | None]:
    """Of Python and the packages; None for one that is not installed."""
    return {"python": platform.python_version()} | {
        name: _version(distribution) for name, distribution in _PACKAGES.items()
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
