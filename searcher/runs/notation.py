"""How options are written: labels of objectives, bounds, durations, amounts of memory, databases."""

import re
from collections.abc import Mapping
from functools import cache

from pydantic import ByteSize, TypeAdapter, ValidationError

from searcher.errors import UsageError


def split_label(text: str) -> tuple[str, str]:
    """Label and name of an objective written `LABEL=NAME`, or `NAME`, which is then its own label.

    A label is a word, or `path/to/file.py:Class` where that was the name before its path was written in full.
    """
    match = re.fullmatch(r"([\w-]+|[^=]+\.py:\w+)=(.+)", text)
    return (match[1], match[2]) if match else (text, text)


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """Name and options of a healing written `bias`, or `lora:steps=200,rank=8`.

    Raises:
        UsageError: an option is not `name=value`, or is given twice.
    """
    name, colon, rest = text.strip().rpartition(":")
    if not colon or re.fullmatch(r"[A-Z]\w*", rest):  # path/to/file.py:Class has a colon too
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


def plain_spec(text: str) -> str:
    """The same healing with its options in alphabetical order: equal ones are then equal texts."""
    return write_spec(*parse_spec(text))


def write_spec(name: str, options: Mapping[str, str]) -> str:
    """The inverse of :func:`parse_spec`."""
    return f"{name}:{','.join(f'{option}={options[option]}' for option in sorted(options))}" if options else name


def parse_bound(label: str, text: str) -> tuple[float, bool]:
    """The number of a bound such as `60%`, `0.8` or `100M`, and whether it is a share of the dense model's value.

    Raises:
        UsageError: it is something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([kMGT%]?)", text.strip())
    if not match:
        raise UsageError(
            f"The bound '{text}' of {label} is not a number", "Write it as 60% of the dense model's, 0.8 or 100M"
        )
    scale = {"": 1.0, "%": 0.01, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2]]
    return float(match[1]) * scale, match[2] == "%"


def parse_seconds(text: str) -> float:
    """Seconds of a duration such as `90`, `90s`, `30m` or `2h`.

    Raises:
        UsageError: anything else, or nothing at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise UsageError(f"Timeout '{text}' is not a duration", "Write it as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_bytes(text: str) -> int:
    """Bytes of an amount such as `8GiB`, `500MB` or a plain number.

    Raises:
        UsageError: anything else, or nothing at all.
    """
    amount = text.strip()
    try:
        found = int(_bytes_of().validate_python(f"{amount}B" if amount.endswith("i") else amount))
    except ValidationError:
        found = 0
    if found <= 0:
        raise UsageError(f"Memory '{text}' is not an amount", "Write it as 8GiB or 500MB")
    return found


@cache
def _bytes_of() -> TypeAdapter[ByteSize]:
    return TypeAdapter(ByteSize)


def without_password(url: str) -> str:
    """The URL of a database with its password starred out, for messages and the run folder."""
    url = re.sub(r"^([^:]+://[^:/?]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1***", url)
