"""What the numbers of a plug-in depend on beside its options: files they name, its source, and what that imports.

Of everything a digest or a version is kept in the identity of a run, so that a change is noticed and told by name.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from searcher.contracts import registry
from searcher.errors import UsageError
from searcher.runs.imports import follow_imports
from searcher.runs.journal import EVALUATIONS_FILE
from searcher.runs.versions import versions


def dependencies_of(kind: registry.Kind, name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """What a strategy, objective or healing reads and imports, by a name for users, each with a digest or version.

    Files and folders that an option names count by their content; so do, of a plug-in, its source, the modules that it
    imports, and files that these read by a name in the source. Of installed packages the version counts, but not here
    if `searcher.loading.environment` has it. What a plug-in finds in other ways is not seen: name it in an option.

    Args:
        kind: of the plug-in.
        name: its name, `package.module:Class` or `path/to/file.py:Class`.
        options: as they were given.

    Raises:
        UsageError: there is no such plug-in, or a file cannot be read.
    """
    found: dict[str, str] = {}
    for option, value in options.items():
        for path in paths_in(value):
            _add(found, f"{option}={path.name or path.resolve().name}", content_digest(path))
    source, module = registry.source_of(kind, name)
    if source is not None:
        imported = follow_imports(source, module)
        for path, short in imported.files.items():
            _add(found, short, content_digest(path))
        known = versions()
        found |= {f"package {one}": version for one, version in imported.packages.items() if one not in known}
    return found


def _add(found: dict[str, str], name: str, digest: str) -> None:
    """Two files of one name count together."""
    found[name] = digest if name not in found else hashlib.sha256(f"{found[name]}{digest}".encode()).hexdigest()


def paths_in(value: Any) -> Iterator[Path]:
    """The files and folders that the value of an option names, if there are any; it may be a list."""
    if isinstance(value, list | tuple):
        for member in value:
            yield from paths_in(member)
    elif isinstance(value, str | Path) and str(value).strip():
        path = Path(value).expanduser()
        try:
            there = path.is_file() or path.is_dir()
        except (OSError, ValueError):  # no name that a file can have
            return
        if there:
            yield path


def content_digest(path: Path) -> str:
    """A sha256 of a file, or of all that a folder holds: but for hidden files, caches of Python and folders of runs.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for member in sorted(_members(path)):
            digest.update(f"{member.relative_to(path)}\0{content_digest(member)}\0".encode())
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read ({error.strerror})", "Give a path you may read") from error
    return digest.hexdigest()


def _members(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        if EVALUATIONS_FILE in files:  # a run, which may be the one that is being written
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        paths = (Path(place, name) for name in files if not name.startswith("."))
        yield from (path for path in paths if path.is_file())
