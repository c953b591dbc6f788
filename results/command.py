"""The command line that makes a run again."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from searcher.runs.config import RunConfig

ONE_A_LINE = " \\\n  "
"""What stands between options so that a shell reads each from a line of its own."""


def command_line(config: RunConfig, between: str = " ") -> str:
    """`searcher run …` with every option that is not the default, quoted for a POSIX shell.

    It says all that the configuration says; defaults that suit the device, such as the number of windows, are chosen
    again.

    Args:
        config: of the run.
        between: what separates the options; see :data:`ONE_A_LINE`.
    """
    given = {name: getattr(config, name) for name in RunConfig.model_fields}
    chosen = {name: value for name, value in given.items() if value != RunConfig.model_fields[name].default}
    return write_command("run", chosen, between)


def write_command(command: str, options: Mapping[str, Any], between: str = " ") -> str:
    """`searcher COMMAND …` with these options, by their names in Python, quoted for a POSIX shell."""
    flags = (flag for name, value in options.items() for flag in _flags(name, value))
    return between.join([f"searcher {command}", *map(shlex.join, flags)])


def _flags(name: str, value: Any) -> Iterator[list[str]]:
    """A flag with its value, as often as it must be given."""
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        yield [flag]
    elif name == "objective_args":
        for label, options in value.items():
            yield from _pairs("--objective-arg", options, f"{label}:")
    elif isinstance(value, Mapping):
        yield from _pairs(flag.removesuffix("s"), value)
    else:
        for text in map(str, value if isinstance(value, tuple | list) else (value,)):
            yield [f"{flag}={text}"] if text.startswith("-") else [flag, text]  # else it is read as another flag


def _pairs(flag: str, options: Mapping[str, Any], owner: str = "") -> Iterator[list[str]]:
    for name, value in options.items():
        yield [flag, f"{owner}{name}={value if isinstance(value, str) else json.dumps(value)}"]
