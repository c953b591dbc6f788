"""Strategies, objectives and healings by name: built in, from entry points, a module, or a file of the user's.

A name is a string until it is used; nothing is imported to list names.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from searcher.errors import UsageError, did_you_mean

Kind = Literal["strategy", "objective", "healing"]
PLURAL: dict[Kind, str] = {"strategy": "strategies", "objective": "objectives", "healing": "healings"}
CONTRACT: dict[Kind, str] = {
    "strategy": "searcher.contracts.strategy:Strategy",
    "objective": "searcher.contracts.objective:Objective",
    "healing": "searcher.healing.contract:Healing",
}
"""The class that each kind derives from, imported where one is used."""

BUILT_IN: dict[Kind, dict[str, str]] = {
    "strategy": {
        "bayesian": "strategies.bayesian:Bayesian",
        "portfolio": "strategies.portfolio:Portfolio",
        "influence": "strategies.influence:Influence",
        "contiguous": "strategies.contiguous:Contiguous",
        "greedy": "strategies.greedy:Greedy",
        "beam": "strategies.beam:Beam",
        "shapley": "strategies.shapley:Shapley",
        "interactions": "strategies.interactions:Interactions",
        "gates": "strategies.gates:Gates",
        "evolutionary": "strategies.evolutionary:Evolutionary",
        "evopress": "strategies.evopress:EvoPress",
        "optuna": "strategies.optuna:Optuna",
        "local": "strategies.local:Local",
        "oscillating": "strategies.oscillating:Oscillating",
        "exhaustive": "strategies.exhaustive:Exhaustive",
        "random": "strategies.random:Random",
    },
    "objective": {
        "loss": "objectives.loss:Loss",
        "perplexity": "objectives.loss:Perplexity",
        "kl": "objectives.divergence:KL",
        "js": "objectives.divergence:JS",
        "hybrid": "objectives.hybrid:Hybrid",
        "accuracy": "objectives.accuracy:Accuracy",
        "stability": "objectives.stability:Stability",
        "lm-eval": "objectives.lm_eval:LmEval",
        "parameters": "objectives.sizes:Parameters",
        "weights-bytes": "objectives.sizes:WeightsBytes",
        "kv-cache": "objectives.sizes:KVCache",
        "flops": "objectives.sizes:Flops",
        "latency": "objectives.latency:Latency",
    },
    "healing": {
        "lora": "searcher.healing.lora:Lora",
        "full": "searcher.healing.full:Full",
        "bias": "searcher.healing.bias:Bias",
        "rescale": "searcher.healing.rescale:Rescale",
        "linear": "searcher.healing.linear:Linear",
        "linear-folded": "searcher.healing.folded:LinearFolded",
        "layer": "searcher.healing.replacement:Layer",
        "ffn": "searcher.healing.replacement:Ffn",
        "swiglu": "searcher.healing.replacement:Swiglu",
    },
}

_LOADING = threading.RLock()
"""Held while a file of the user's is run: evaluators of several threads ask for it."""


@dataclass(frozen=True)
class Option:
    """An option of a strategy, objective or healing, as its `__init__` declares it."""

    name: str
    type: str
    default: str


def names(kind: Kind) -> dict[str, str]:
    """Known names and where each points to, built-in first, then entry points of installed packages."""
    plugins = {e.name: e.value for e in entry_points(group=f"searcher.{PLURAL[kind]}")}
    return BUILT_IN[kind] | {name: plugins[name] for name in sorted(plugins) if name not in BUILT_IN[kind]}


def contract_of(kind: Kind) -> type:
    """The class that all of this kind derive from."""
    place, _, name = CONTRACT[kind].rpartition(":")
    found: type = getattr(importlib.import_module(place), name)
    return found


def find(kind: Kind, name: str) -> type:
    """The class of this name, or of `package.module:Class` or `path/to/file.py:Class`.

    Raises:
        UsageError: no such name, module, file or class, or it is of another kind.
    """
    place, attribute = _place(kind, name)
    found = getattr(_module(kind, name, place), attribute, None)
    contract = contract_of(kind)
    if not (inspect.isclass(found) and issubclass(found, contract)) or inspect.isabstract(found):
        raise UsageError(
            f"{kind.capitalize()} '{name}': {place} has no {contract.__name__} class '{attribute}'",
            f"Write it as place:Class, derived from {contract.__module__}.{contract.__name__}, no method missing",
        )
    return found


def _place(kind: Kind, name: str) -> tuple[str, str]:
    """Where a plug-in comes from, a module or a file, and the name of its class."""
    known = names(kind)
    if name not in known and ":" not in name:
        raise UsageError(
            f"Unknown {kind} '{name}'",
            f"{did_you_mean(name, known)}"
            f"Available: {', '.join(known)}; or a path/to/file.py:Class or package.module:Class of your own",
        )
    place, _, attribute = known.get(name, name).rpartition(":")
    return place, attribute


def source_of(kind: Kind, name: str) -> tuple[Path | None, str]:
    """The file that a plug-in of this name comes from, None if it is in none, and the module that it is imported as.

    The second is empty for one that is loaded by its path.
    """
    place, _ = _place(kind, name)
    file = getattr(_module(kind, name, place), "__file__", None)
    return None if file is None else Path(file), "" if place.endswith(".py") else place


def source_fingerprint(kind: Kind, name: str) -> str | None:
    """sha256 of the file that defines a strategy or objective of the user's own; None for ours."""
    if name in BUILT_IN[kind]:
        return None
    found = find(kind, name)
    path = inspect.getsourcefile(found)
    source = Path(path).read_bytes() if path else f"{found.__module__}.{found.__qualname__}".encode()
    return hashlib.sha256(source).hexdigest()


def _module(kind: Kind, name: str, place: str) -> ModuleType:
    try:
        return _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except FileNotFoundError as error:
        raise UsageError(f"{kind.capitalize()} '{name}': there is no file {place}", "Check the path") from error
    except Exception as error:  # the user's own module may raise anything while it is imported
        raise UsageError(
            f"{kind.capitalize()} '{name}': {place} cannot be imported ({type(error).__name__}: {error})",
            "Mend the module or check its name",
        ) from error


def _from_file(path: Path) -> ModuleType:
    """The module of a file, which is run once for as long as its content stays as it is."""
    if not path.is_file():
        raise FileNotFoundError(path)
    path = path.resolve()
    content = hashlib.sha256(f"{path}\0".encode() + path.read_bytes()).hexdigest()
    name = f"searcher_plugin_{path.stem}_{content[:16]}"
    with _LOADING:
        if name not in sys.modules:
            _load(name, path)
        return sys.modules[name]


def _load(name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def options(cls: type) -> tuple[Option, ...]:
    """The options of a strategy or objective class."""
    return tuple(
        Option(
            name=p.name,
            type=inspect.formatannotation(_plain(p.annotation)),
            default="required" if p.default is p.empty else str(p.default),
        )
        for p in _parameters(cls).values()
    )


def _plain(annotation: Any) -> Any:
    """The type without the checks annotated to it."""
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(_plain(part) for part in get_args(annotation))]  # noqa: UP007 - made at run time
    return annotation


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    own = inspect.getattr_static(cls, "__init__") is not object.__init__
    return inspect.signature(cls, eval_str=True).parameters if own else {}


def check_options(kind: Kind, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options, each turned to the type its parameter declares ("8" to 8, "true" to True).

    Raises:
        UsageError: an option is unknown or missing, or its value does not fit.
    """
    parameters = _parameters(find(kind, name))
    checked: dict[str, Any] = {}
    for option, value in given.items():
        if option not in parameters:
            raise UsageError(
                f"Unknown option '{option}' of {kind} '{name}'",
                f"{did_you_mean(option, parameters)}It has: {', '.join(parameters) or 'no options'}",
            )
        checked[option] = _converted(f"{kind} '{name}'", option, parameters[option].annotation, value)
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in checked:
            raise UsageError(f"{kind.capitalize()} '{name}' needs the option '{option}'", f"Pass {option}=value")
    return checked


def _converted(owner: str, option: str, annotation: Any, value: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return value
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        expected = inspect.formatannotation(_plain(annotation))
        raise UsageError(
            f"Option '{option}' of {owner}: '{value}' does not fit",
            f"Expected {expected} ({error.errors()[0]['msg']})",
        ) from error


def make(kind: Kind, name: str, given: Mapping[str, Any]) -> Any:
    """An instance of the named strategy or objective, with these options.

    Raises:
        UsageError: see :func:`find` and :func:`check_options`; or the class refuses a value with a ValueError.
    """
    try:
        return find(kind, name)(**check_options(kind, name, given))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{kind.capitalize()} '{name}' refuses its options: {error}", "Choose other values") from error
