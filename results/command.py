"""The command line that makes a run again."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from searcher.config import RunConfig


def command_line(config: RunConfig) -> str:
    """`searcher run …` with every option that is not the default, quoted for a POSIX shell.

    It says all that the configuration says; defaults that suit the device, such as the number of windows, are chosen
    again.
    """
    return shlex.join(["searcher", "run", *(text for name in RunConfig.model_fields for text in _flags(config, name))])


def _flags(config: RunConfig, name: str) -> Iterator[str]:
    value, default = getattr(config, name), RunConfig.model_fields[name].default
    if value == default:
        return
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        yield flag
    elif name == "objective_args":
        for label, options in value.items():
            yield from _pairs("--objective-arg", options, f"{label}:")
    elif isinstance(value, Mapping):
        yield from _pairs(flag.removesuffix("s"), value)
    else:
        for text in value if isinstance(value, tuple) else (value,):
            yield f"{flag}={text}" if str(text).startswith("-") else flag
            if not str(text).startswith("-"):
                yield str(text)


def _pairs(flag: str, options: Mapping[str, Any], owner: str = "") -> Iterator[str]:
    for name, value in options.items():
        yield flag
        yield f"{owner}{name}={value if isinstance(value, str) else json.dumps(value)}"
