"""What a Python module imports, and names in its text, found without running anything."""

import ast
import importlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

_STANDARD = Path(sysconfig.get_paths()["stdlib"]).resolve()
_OURS = Path(__file__).resolve().parents[2]
_ENGINE = ("searcher", "results", "study", "pydantic")
"""Packages that are not followed: ours, which the version of searcher stands for, and the one that checks options."""
_LONGEST_NAME = 200
_READING = re.compile(r"open|read\w*|load\w*|fromfile|genfromtxt")
"""Functions and methods that read a file; `open` does so unless its mode is one of these."""
_WRITTEN = re.compile(r"[rbt]*[wax+][bt+]*")


@dataclass
class Found:
    """What a module and those it imports are made of.

    Attributes:
        files: source files that are neither installed nor ours, and files that these read by name; with short names.
        packages: names of installed distributions that are imported, with their versions.
    """

    files: dict[Path, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)


def follow_imports(file: Path, module: str = "") -> Found:
    """Follow all imports of a source file, those within functions too, to the standard library and installed packages.

    What is computed cannot be seen: a name of a module that is put together, or of a file that is not written where it
    is read.

    Args:
        file: the source.
        module: the dotted name under which it was imported, if it was not loaded by its path.
    """
    importlib.invalidate_caches()  # a file may have been written a moment ago
    found, seen = Found(), set[Path]()
    todo = [(module, file.resolve())]
    while todo:
        name, path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += _follow(name, path, found)
    return found


def _follow(name: str, path: Path, found: Found) -> Iterator[tuple[str, Path]]:
    """The source files that one imports; what else it depends on is noted."""
    if not _is_ours(path):
        found.files[path] = _short(name, path)
    try:
        tree = ast.parse(path.read_bytes()) if path.suffix == ".py" else ast.Module([], [])
    except SyntaxError:  # importing it will tell
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    if not _is_ours(path):
        found.files |= dict(_named_files(tree, path.parent))
    for imported in _imported(tree, package):
        yield from _locate(imported, found)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that may be modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else str(getattr(function, "id", ""))


def _named_files(tree: ast.AST, folder: Path) -> Iterator[tuple[Path, str]]:
    """Files that are read by a name in the source, seen from there or from the working directory; not those written."""
    for call in (
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and _READING.fullmatch(_name(node.func))
    ):
        texts = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        if not any(map(_WRITTEN.fullmatch, texts)):
            named = (text for text in texts if len(text) <= _LONGEST_NAME and text.isprintable() and Path(text).suffix)
            yield from ((p.resolve(), text) for text in named for p in (folder / text, Path(text)) if _is_file(p))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _locate(dotted: str, found: Found) -> Iterator[tuple[str, Path]]:
    """The source files of a module and of the packages it is in, unless they are installed: then their version."""
    parts = dotted.split(".")
    spec = _top(parts[0])
    for depth in range(1, len(parts) + 1):
        if spec is None:
            return
        if depth == 1 and (installed := _distribution(parts[0], spec)) is not None:
            found.packages[installed.name] = installed.version
            return
        name = ".".join(parts[:depth])
        if spec.has_location and spec.origin and not _is_standard(Path(spec.origin).resolve()):
            yield name, Path(spec.origin).resolve()
        below = spec.submodule_search_locations
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), list(below)) if below and depth < len(parts) else None


def _top(name: str) -> ModuleSpec | None:
    if not name or name in sys.stdlib_module_names or name in _ENGINE:
        return None
    try:
        return importlib.util.find_spec(name)  # of a top-level name: nothing is run
    except (ImportError, ValueError):
        return None


def _distribution(top: str, spec: ModuleSpec) -> Distribution | None:
    """The installed distribution that a top-level module is from; None if it is a file of the user's, or one of ours.

    One that is installed in place is the user's: its files change without its version.
    """
    places = [spec.origin] if spec.has_location else [f"{p}/__init__.py" for p in spec.submodule_search_locations or ()]
    paths = [Path(place).resolve() for place in places if place]
    if any(_is_ours(path) or _is_standard(path) for path in paths):
        return None
    for path in paths:
        root = path.parent.parent if path.name == "__init__.py" else path.parent
        if _sited(path) or next(root.glob("*.dist-info"), None):  # what is installed tells of itself beside it
            return _from(top, root)
    return None


def _from(top: str, root: Path) -> Distribution | None:
    """The distribution of a top-level module in this folder; most are called like it."""
    try:
        candidates = [distribution(top)]
    except PackageNotFoundError:
        candidates = [distribution(name) for name in _all_distributions().get(top, [])]
    return next((one for one in candidates if Path(str(one.locate_file(""))).resolve() == root), None)


@cache
def _all_distributions() -> Mapping[str, list[str]]:
    return packages_distributions()  # takes half a second


def _sited(path: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def _is_standard(path: Path) -> bool:
    return path.is_relative_to(_STANDARD) and not _sited(path)


def _is_ours(path: Path) -> bool:
    return any(path.is_relative_to(_OURS / name) for name in ("searcher", "strategies", "objectives", "results"))


def _short(name: str, path: Path) -> str:
    """`helper.py` or `package/helper.py`, seen from where Python looks for it."""
    depth = name.count(".") + (path.name == "__init__.py")
    return "/".join(path.parts[-1 - depth :])
