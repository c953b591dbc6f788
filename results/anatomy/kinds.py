"""Units sorted by kind: attention, FFN, whole blocks."""

from collections.abc import Sequence

_KINDS = {"attn": "attention", "ffn": "FFN", "": "block"}


def by_kind(units: Sequence[str]) -> dict[str, list[int]]:
    """By kind, the places of its units in their order; kinds in the order in which they come."""
    kinds: dict[str, list[int]] = {}
    for place, unit in enumerate(units):
        kinds.setdefault(_KINDS[unit.partition(".")[2]], []).append(place)
    return kinds


def block_of(unit: str) -> int:
    """The block of `12` or `12.attn`."""
    return int(unit.partition(".")[0])
