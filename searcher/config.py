"""The configuration of a run: every option once, with its default, its check and its kind."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from searcher.errors import UsageError
from searcher.plan import Budget, Granularity, PrunePlan

Kind = Literal["measurement", "search", "limit", "execution"]
"""What a field of a finished run means for the same run folder: a *measurement* or *search* field must match, a
*limit* may grow, an *execution* field is free."""


def _of(kind: Kind, help_text: str, **checks: Any) -> Any:
    return Field(description=help_text, json_schema_extra={"kind": kind}, **checks)


class MeasurementConfig(BaseModel):
    """What is measured, on what. Make one with :func:`make_config`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str | None, _of("measurement", "Hub id, folder or .gguf file; default: SmolLM2-135M")] = None
    revision: Annotated[str | None, _of("measurement", "Branch, tag or commit of a hub model")] = None
    trust_remote_code: Annotated[bool, _of("measurement", "Run modelling code that comes with the model")] = False
    dtype: Annotated[str, _of("measurement", "float32, bfloat16, float16, or auto for what suits the device")] = "auto"
    device: Annotated[str, _of("execution", "cpu, cuda, cuda:1, or auto")] = "auto"
    data: Annotated[
        str | None,
        _of("measurement", "Text: .txt, .jsonl, .parquet, saved folder or datasets id; default: Python's docs"),
    ] = None
    windows: Annotated[int | None, _of("measurement", "Search windows; default: 8 on a CPU, 64 on a GPU", ge=1)] = None
    window_tokens: Annotated[
        int | None, _of("measurement", "Tokens of a window; default: 128, or 512 on a GPU", ge=2)
    ] = None
    report_windows: Annotated[
        int | None, _of("measurement", "Report windows, at least 32; default: 32, or 128 on a GPU", ge=32)
    ] = None
    data_seed: Annotated[int, _of("measurement", "Which windows of the search split are taken", ge=0)] = 0
    objective: Annotated[
        tuple[str, ...], _of("measurement", "What to measure; the first is searched for", min_length=1)
    ] = ("perplexity",)
    objective_args: Annotated[
        dict[str, dict[str, Any]], _of("measurement", "Options of objectives, by their name")
    ] = {}

    @field_validator("objective", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @classmethod
    def kinds(cls) -> dict[str, Kind]:
        """The kind of each field."""
        return {name: field.json_schema_extra["kind"] for name, field in cls.model_fields.items()}  # type: ignore[index, misc]


class RunConfig(MeasurementConfig):
    """What to search, on what, by which measure, and how far. Make one with :func:`make_config`."""

    strategy: Annotated[str, _of("search", "How to search")] = "shapley"
    strategy_args: Annotated[dict[str, Any], _of("search", "Options of the strategy")] = {}
    granularity: Annotated[Granularity, _of("search", "What the units are")] = Granularity.BLOCK
    budget: Annotated[str, _of("search", "How much to remove: 8, 25% or 1-8")]
    keep: Annotated[str, _of("search", "Units that must stay, written as a plan: 0,1,29")] = ""
    seed: Annotated[int, _of("search", "Seed of the strategy", ge=0)] = 0
    max_evaluations: Annotated[float | None, _of("limit", "Stop before more plans than this", gt=0)] = None
    max_cost: Annotated[
        float | None, _of("limit", "Stop before this cost, in layer-forward equivalents per 1,000 tokens", gt=0)
    ] = None
    timeout: Annotated[str | None, _of("limit", "Stop after this time, as 90s, 30m or 2h; not repeatable")] = None
    name: Annotated[str | None, _of("execution", "Name of the run folder; default: made from the configuration")] = None
    runs_dir: Annotated[str, _of("execution", "Where run folders are")] = "runs"

    @field_validator("budget", mode="before")
    @classmethod
    def _check_budget(cls, value: Any) -> str:
        return str(Budget(str(value)))

    @field_validator("keep", mode="before")
    @classmethod
    def _check_keep(cls, value: Any) -> str:
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        return str(PrunePlan.parse(text)) if text else ""

    @field_validator("timeout", mode="before")
    @classmethod
    def _check_timeout(cls, value: Any) -> str | None:
        if value is not None:
            parse_seconds(str(value))
        return None if value is None else str(value)

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if (value is not None and not re.fullmatch(r"[\w.-]+", value)) or value in (".", ".."):
            raise UsageError(
                f"Name '{value}' cannot be a folder name", "Use letters, digits, dots, dashes and underscores"
            )
        return value

    @property
    def seconds(self) -> float | None:
        """The timeout in seconds."""
        return None if self.timeout is None else parse_seconds(self.timeout)


def parse_seconds(text: str) -> float:
    """Seconds of a duration such as `90`, `90s`, `30m` or `2h`.

    Raises:
        UsageError: anything else, or nothing at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise UsageError(f"Timeout '{text}' is not a duration", "Write it as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def read_config_file(path: Path) -> dict[str, Any]:
    """The fields in a YAML file.

    Raises:
        UsageError: the file is missing, unreadable, or no YAML mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
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
    name = str(first["loc"][0])
    fields = kind.model_fields
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, fields, n=1)
        hint = f"Did you mean '{close[0]}'? " if close else ""
        return UsageError(f"Unknown option '{name}'", f"{hint}Options: {', '.join(fields)}")
    if first["type"] == "missing":
        return UsageError(f"Option --{name.replace('_', '-')} is missing", fields[name].description or "")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UsageError):
        return cause
    option = f"Option --{name.replace('_', '-')}"
    return UsageError(f"{option}: '{first['input']}' does not fit", f"{first['msg']}. {fields[name].description}")
