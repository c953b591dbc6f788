"""How a healing is written: `bias`, or with options `lora:steps=200,rank=8`."""

from typing import Any

from searcher import registry
from searcher.errors import UsageError
from searcher.healing.contract import Healing


def parse_recipe(text: str) -> tuple[str, dict[str, str]]:
    """Name and options of a healing; the options follow the last colon.

    Raises:
        UsageError: an option is not `name=value`, or is given twice.
    """
    name, colon, rest = text.strip().rpartition(":")
    if not colon or "=" not in rest:  # path/to/file.py:Class has a colon too
        return text.strip(), {}
    options: dict[str, str] = {}
    for part in rest.split(","):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not (option and equals and value):
            raise UsageError(
                f"'{part.strip()}' of healing '{text}' is not name=value", "Write it as lora:steps=200,rank=8"
            )
        option = option.replace("-", "_")
        if option in options:
            raise UsageError(f"Healing '{text}' has the option '{option}' twice", "Give it once")
        options[option] = value
    return name, options


def canonical(text: str) -> str:
    """The same recipe with its options sorted, so that equal recipes are equal texts."""
    name, options = parse_recipe(text)
    return f"{name}:{','.join(f'{option}={options[option]}' for option in sorted(options))}" if options else name


def make_healing(text: str) -> Healing:
    """The healing of this recipe.

    Raises:
        UsageError: there is no such healing, or its options do not fit.
    """
    name, options = parse_recipe(text)
    made: Any = registry.make("healing", name, options)
    healing: Healing = made
    return healing
