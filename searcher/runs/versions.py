"""The versions that numbers depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("searcher", "torch", "transformers", "tokenizers", "numpy", "scipy")


def versions() -> dict[str, str | None]:
    """Of Python and the packages; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
