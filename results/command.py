"""The command line that makes a run again."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from searcher.config import RunConfig

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
    options = (option for name in RunConfig.model_fields for option in _options(config, name))
    return between.join(["searcher run", *map(shlex.join, options)])


def _options(config: RunConfig, name: str) -> Iterator[list[str]]:
    """A flag with its value, as often as it must be given."""
    value = getattr(config, name)
    if value == RunConfig.model_fields[name].default:
        return
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        yield [flag]
    elif name == "objective_args":
        for label, options in value.items():
            yield from _pairs("--objective-arg", options, f"{label}:")
    elif isinstance(value, Mapping):
        yield from _pairs(flag.removesuffix("s"), value)
    else:
        for text in map(str, value if isinstance(value, tuple) else (value,)):
            yield [f"{flag}={text}"] if text.startswith("-") else [flag, text]  # else it is read as another flag


def _pairs(flag: str, options: Mapping[str, Any], owner: str = "") -> Iterator[list[str]]:
    for name, value in options.items():
        yield [flag, f"{owner}{name}={value if isinstance(value, str) else json.dumps(value)}"]
