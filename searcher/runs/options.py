"""A configuration from its options: those of a call, of the command line, or of a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from searcher.errors import UsageError, did_you_mean
from searcher.runs.config import MeasurementConfig


def read_config_file(path: Path) -> dict[str, Any]:
    """The fields in a YAML file.

    Raises:
        UsageError: the file is missing, unreadable, or no YAML mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(
            f"Configuration {path} cannot be read ({' '.join(str(error).split())})", "Give a YAML file of options"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"Configuration {path} holds no options", "Write lines such as  budget: 8")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


Config = TypeVar("Config", bound=MeasurementConfig)


def make_config(kind: type[Config], fields: Mapping[str, Any]) -> Config:
    """A checked configuration of this kind from names and values.

    Raises:
        UsageError: a field is unknown or missing, or its value does not fit.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        raise _explained(kind, error) from error


def _explained(kind: type[MeasurementConfig], error: ValidationError) -> UsageError:
    # a misspelt option explains a missing one
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UsageError):
        return cause
    name = str(first["loc"][0])
    fields = kind.model_fields
    if first["type"] == "extra_forbidden":
        return UsageError(f"Unknown option '{name}'", f"{did_you_mean(name, fields)}Options: {', '.join(fields)}")
    if first["type"] == "missing":
        return UsageError(f"Option --{name.replace('_', '-')} is missing", fields[name].description or "")
    option = f"Option --{name.replace('_', '-')}"
    return UsageError(f"{option}: '{first['input']}' does not fit", f"{first['msg']}. {fields[name].description}")
