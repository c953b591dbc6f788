"""Command line flags made from a configuration, so that every option is written once, in `searcher.runs.config`."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from searcher.errors import UsageError
from searcher.runs.config import DEFAULT_OBJECTIVE, Kind, MeasurementConfig
from searcher.runs.notation import split_label

PANELS: dict[Kind, str] = {
    "measurement": "What is measured",
    "search": "How it is searched",
    "limit": "Limits",
    "execution": "Running",
}

Command = Callable[..., None]


def takes(config: type[MeasurementConfig], without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command a flag for every field of the configuration, without some that it declares itself.

    The command's first parameter, `options`, receives those that were given, by field name. A field of options by
    name (`strategy_args`) becomes a flag that may be repeated (`--strategy-arg name=value`); see :func:`combined`.
    """

    def decorate(command: Command) -> Command:
        _, *own = inspect.signature(command).parameters.values()
        fields = {name: field for name, field in config.model_fields.items() if name not in without}
        flags = [_flag(name, field, config.kinds()[name]) for name, field in fields.items()]

        def with_flags(**given: Any) -> None:
            options = {name: given.pop(name) for name in fields}
            command({name: value for name, value in options.items() if value is not None}, **given)

        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*flags, *own)]
        with_flags.__name__, with_flags.__doc__ = command.__name__, command.__doc__
        with_flags.__annotations__ = {p.name: p.annotation for p in keyword_only}
        with_flags.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        return with_flags

    return decorate


def _flag(name: str, field: FieldInfo, kind: Kind) -> inspect.Parameter:
    repeated = any(get_origin(one) in (tuple, dict) for one in (field.annotation, *get_args(field.annotation)))
    names = [f"--{name.removesuffix('s').replace('_', '-')}"] if name.endswith("_args") else []
    if field.annotation is bool:
        names = [f"--{name.replace('_', '-')}"]  # without a --no- form
    option = typer.Option(*names, help=field.description, rich_help_panel=PANELS[kind], show_default=False)
    value: Any = list[str] if repeated else field.annotation
    annotation = Annotated[value | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def combined(file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a configuration file with those of the command line, which win, also among options by name.

    Args:
        file: field names and values.
        given: what :func:`takes` hands to a command; `name=value` texts are read here.

    Raises:
        UsageError: a text is not `name=value`, or does not say for which objective it is.
    """
    options = {**file, **given}
    if "strategy_args" in given:
        named = {_field(name): value for name, value in _pairs("--strategy-arg", given["strategy_args"])}
        options["strategy_args"] = _joined(file.get("strategy_args"), named)
    for name in ("weight", "at_most", "at_least"):
        if name in given:
            flag = f"--{name.replace('_', '-')}"
            options[name] = _joined(file.get(name), dict(_pairs(flag, given[name])))
    if "objective_args" in given:
        objectives = options.get("objective") or DEFAULT_OBJECTIVE
        labels = [split_label(text)[0] for text in ([objectives] if isinstance(objectives, str) else objectives)]
        options["objective_args"] = _joined(file.get("objective_args"), _by_objective(given["objective_args"], labels))
    return options


def _joined(file: Any, given: dict[str, Any]) -> Any:
    if file is None:
        return given
    if not isinstance(file, dict):
        return file  # is refused with all else that does not fit
    return file | {name: _joined(file.get(name), v) if isinstance(v, dict) else v for name, v in given.items()}


def _by_objective(texts: list[str], objectives: list[str]) -> dict[str, dict[str, str]]:
    """Options by objective; a name without `objective:` before it goes to the only objective there is."""
    found: dict[str, dict[str, str]] = {}
    for name, value in _pairs("--objective-arg", texts):
        owner, colon, option = name.rpartition(":")
        if not colon and len(objectives) > 1:
            raise UsageError(
                f"--objective-arg '{name}={value}' could be meant for any of {', '.join(objectives)}",
                f"Write it as {objectives[0]}:{name}={value}",
            )
        found.setdefault(owner if colon else objectives[0], {})[_field(option)] = value
    return found


def _field(option: str) -> str:
    return option.replace("-", "_")


def _pairs(flag: str, texts: list[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, _) in zip(texts, pairs, strict=True):
        if not (name and equals):
            raise UsageError(f"{flag} '{text}' is not name=value", f"Write it as {flag} name=value")
    return [(name.strip(), value) for name, _, value in pairs]
