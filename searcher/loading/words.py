"""A measure of text for every script: words, and characters where a script puts no spaces between words."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

CHARACTERS = 2
"""Characters of a script without spaces that count as a word."""
LONGEST = 200
"""Characters of the longest word; what goes on for longer has none, and is measured in characters too."""

_UNSPACED = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE", "TAI", "NEW TAI", "HALFWIDTH KATAK")
_BASE = 0x9E3779B97F4A7C15  # odd, and so with an inverse modulo 2**64


@dataclass(frozen=True, eq=False)
class Units:
    """The words of a text, and its characters of scripts without spaces, each with its marks.

    Attributes:
        codes: uint32 (characters,) of the text.
        starts: int64 (units,), where each begins.
        lengths: int64 (units,), of how many characters each is.
        sizes: int64 (units,), how much each counts: `CHARACTERS` for a word, 1 for a character.
    """

    codes: NDArray[np.uint32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def runs(self, words: int) -> NDArray[np.uint64]:
        """Hashes of the runs of units that count this many words, one for every unit that such a run begins with."""
        each = _mixed(_hashes(_mixed(self.codes.astype(np.uint64)), self.starts, self.starts + self.lengths))
        counted = np.cumsum(self.sizes)
        ends = np.searchsorted(counted, counted - self.sizes + words * CHARACTERS) + 1
        starts = np.flatnonzero(ends <= len(each))
        return _hashes(each, starts, ends[starts])


def find_units(text: str) -> Units:
    """Take a text apart."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    space, alone, mark = (_where(codes, kind) for kind in (str.isspace, is_unspaced, _is_mark))
    after_word = np.concatenate([[False], ~(space | alone)[:-1]])
    first = ~space & ~(after_word & ~alone) & ~(mark & np.concatenate([[False], ~space[:-1]]))
    solid = np.flatnonzero(~space)
    unit = np.cumsum(first)[solid] - 1
    alone[solid] |= (np.bincount(unit) > LONGEST)[unit]
    first[solid] |= (alone & ~mark)[solid]
    starts = np.flatnonzero(first)
    lengths = np.bincount(np.cumsum(first)[solid] - 1, minlength=len(starts))
    return Units(codes, starts, lengths, np.where(alone[starts], 1, CHARACTERS))


def count_words(text: str) -> float:
    """How many words long a text is."""
    words = text.split()
    if max(map(len, words), default=0) <= LONGEST and not any(map(is_unspaced, set(text))):
        return len(words)  # the same, sooner
    return float(find_units(text).sizes.sum() / CHARACTERS)


def cut_words(text: str, words: int) -> list[str]:
    """Pieces of about this many words, the last of fewer, with single spaces where there were any."""
    units = find_units(text)
    number = (np.cumsum(units.sizes) - units.sizes) // (words * CHARACTERS)
    cuts = units.starts[np.flatnonzero(np.diff(number)) + 1].tolist()
    return [" ".join(text[a:b].split()) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@cache
def is_unspaced(character: str) -> bool:
    """Whether it is of a script that puts no spaces between words."""
    name = unicodedata.name(character, "")
    wide = unicodedata.east_asian_width(character) in "WF" and unicodedata.category(character)[0] not in "SZ"
    return (wide and not name.startswith("HANGUL")) or name.startswith(_UNSPACED)


@cache
def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def _where(codes: NDArray[np.uint32], kind: Callable[[str], bool]) -> NDArray[np.bool_]:
    """Which characters are of a kind; each is asked about once."""
    table = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.bool_)
    table[codes] = True
    for code in np.flatnonzero(table).tolist():
        table[code] = kind(chr(code))
    return table[codes]


def _hashes(values: NDArray[np.uint64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Of each span of values, equal for equal spans wherever they are: polynomials modulo 2**64 (Rabin and Karp)."""
    powers, inverses = (_powers(base, len(values)) for base in (_BASE, pow(_BASE, -1, 2**64)))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * powers, dtype=np.uint64)])
    found: NDArray[np.uint64] = (sums[ends] - sums[starts]) * inverses[starts]
    return found


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    return np.multiply.accumulate(np.concatenate([np.ones(1, np.uint64), np.full(max(count - 1, 0), base, np.uint64)]))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread over 64 bits, as splitmix64 does."""
    values = values + np.uint64(_BASE)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
