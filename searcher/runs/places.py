"""Paths in a configuration: written in full to be found again, and by their last names to tell runs apart."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from searcher.runs.config import MeasurementConfig
from searcher.runs.notation import parse_spec, split_label, write_spec

Config = TypeVar("Config", bound=MeasurementConfig)
_PLUGIN = re.compile(r"(.+\.py):(\w+)")


def absolute(config: Config) -> Config:
    """The configuration with paths in full, so that what goes on from a run finds all from another folder too.

    These are model and data, objectives and healings, and values of their options: of what is there, and is written
    like a path. The search is over: its strategy stays as it was given.
    """
    fields = config.model_dump(exclude={"strategy", "strategy_args"})
    changed: dict[str, Any] = {}
    if config.model and _there(config.model):
        changed["model"] = _full(Path(config.model))
    for name in ("data", "heal_data"):
        if texts := getattr(config, name):
            changed[name] = tuple(_full(Path(text)) if _there(text) else text for text in texts)
    return config.model_copy(update={**_paths(fields, lambda path: _full(path)), **changed})


def by_name(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a configuration with the last name of each path in its place: files count by their content.

    Where model and texts are from is left out, if that is a path.
    """
    places = [name for name in ("model", "data", "heal_data") if _all_there(fields.get(name))]
    left = {name: value for name, value in fields.items() if name not in places}
    return {**left, **_paths(left, lambda path: path.resolve().name)}


def _all_there(value: str | list[str] | None) -> bool:
    """Whether it is a path, or paths alone."""
    return bool(value) and all(map(_there, [value] if isinstance(value, str) else value or ()))


def _paths(fields: dict[str, Any], change: Callable[[Path], str]) -> dict[str, Any]:
    """Those fields that name plug-ins or hold their options, with every path changed."""

    def plugin(name: str) -> str:
        match = _PLUGIN.fullmatch(name)
        return f"{change(Path(match[1]))}:{match[2]}" if match and _there(match[1]) else name

    def option(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: option(member) for name, member in value.items()}
        if isinstance(value, list | tuple):
            return [option(member) for member in value]
        like = isinstance(value, str | Path) and ("/" in str(value) or Path(value).suffix)
        return change(Path(value)) if like and _there(value) else value

    def objective(text: str) -> str:
        label, name = split_label(text)
        return label if plugin(name) == label else f"{label}={plugin(name)}"

    def spec(text: str) -> str:
        name, options = parse_spec(text)
        return write_spec(plugin(name), option(options))

    changes: dict[str, Callable[[Any], Any]] = {
        "objective": lambda texts: type(texts)(map(objective, texts)),
        "objective_args": option,
        "strategy": plugin,
        "strategy_args": option,
        "heal": spec,
        "heal_final": spec,
    }
    return {name: changes[name](value) for name, value in fields.items() if name in changes and value is not None}


def _full(path: Path) -> str:
    return str(path.expanduser().absolute())


def _there(path: str | Path) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError):  # no name that a file can have
        return False
