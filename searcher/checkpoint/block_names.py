"""How the files of a checkpoint name blocks, and what these names become when some blocks are gone."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class NamesDoNotFitError(Exception):
    """Why the tensors of a checkpoint cannot be told by block from their names."""


@dataclass(frozen=True)
class BlockNames:
    """The names of blocks before and after.

    Attributes:
        prefix: of all names of tensors in blocks, up to the number, such as `model.layers`.
        path: of the list of blocks among the model's modules, which may be another.
        places: for each block that is kept, its number and its new one.
        gone: how many blocks are not kept.
    """

    prefix: str
    path: str
    places: Mapping[int, int]
    gone: int

    def tensor(self, name: str) -> str | None:
        """The new name of a tensor; None if its block is gone."""
        return self._renamed(name, self.prefix)

    def module(self, name: str) -> str | None:
        """The same for a module or parameter of the model."""
        return self._renamed(name, self.path)

    def _renamed(self, name: str, prefix: str) -> str | None:
        if not name.startswith(f"{prefix}."):
            return name
        number, dot, rest = name[len(prefix) + 1 :].partition(".")
        if not number.isdigit():
            return name
        place = self._place(int(number))
        return None if place is None else f"{prefix}.{place}{dot}{rest}"

    def _place(self, number: int) -> int | None:
        """Blocks after the last one of the model, which predict tokens further ahead, stay after its last one."""
        return number - self.gone if number >= len(self.places) + self.gone else self.places.get(number)

    def in_metadata(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """The metadata of a file of tensors, where keys and lists in JSON may name them, as torchao writes it."""
        renamed = {self.tensor(key): self._listed(value) for key, value in metadata.items()}
        return {key: value for key, value in renamed.items() if key is not None}

    def _listed(self, value: str) -> str:
        try:
            names = json.loads(value)
        except ValueError:
            return value
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return value
        return json.dumps([new for name in names if (new := self.tensor(name)) is not None])

    def in_config(self, value: Any) -> Any:
        """A part of a config in which lists and keys may name modules by block, with blocks named anew.

        Entries for blocks that are gone are left out. Names may be regular expressions with escaped dots.

        Args:
            value: plain JSON values.

        Raises:
            NamesDoNotFitError: an expression names several blocks at once.
        """
        if isinstance(value, dict):
            renamed = {self._entry(key): self.in_config(one) for key, one in value.items()}
            return {key: one for key, one in renamed.items() if key is not None}
        if isinstance(value, list):
            entries = [self._entry(one) if isinstance(one, str) else self.in_config(one) for one in value]
            return [one for one, before in zip(entries, value, strict=True) if one is not None or before is None]
        return value

    def _entry(self, text: str) -> str | None:
        name = re.escape(self.prefix.rpartition(".")[2])
        if re.search(rf"\b{name}\\?\.(\[(?!0-9\])[^\]]*\d|\([^)]*\d)", text):
            raise NamesDoNotFitError(f"the config names several blocks in one expression, '{text}'")
        found = re.search(rf"([\w.\\]*\b{name})(\\?\.)(\d+)(?!\d)", text)
        if found is None or not self._is_of_blocks(found[1]):
            return text
        place = self._place(int(found[3]))
        return None if place is None else f"{text[: found.start(3)]}{place}{text[found.end(3) :]}"

    def _is_of_blocks(self, found: str) -> bool:
        """Whether the end of a path is that of the blocks, and not of another list of the same name."""
        path = found.replace("\\", "").lstrip(".")
        return any(f".{a}".endswith(f".{b}") for one in (self.prefix, self.path) for a, b in ((one, path), (path, one)))


def find_names(
    tensors: Iterable[str], path: str, own: Collection[str], ahead: int, num_blocks: int, kept: Sequence[int]
) -> BlockNames:
    """The names of blocks in the files of a checkpoint: those that are numbered as the blocks are.

    Where several lists are as long, such as those of the layers of a vision tower, it is the one whose tensors are
    called as the parameters of a block.

    Args:
        tensors: names of all tensors.
        path: of the list of blocks among the model's modules.
        own: names of the parameters of blocks, within the block.
        ahead: blocks there may be after the last one of the model, which predict tokens further ahead.
        num_blocks: of the model.
        kept: numbers of the blocks that are kept, in order.

    Raises:
        NamesDoNotFitError: there is no such list, or more than one.
    """
    within = _by_list(tensors)
    fitting = [
        prefix
        for prefix, found in within.items()
        if prefix and set(range(num_blocks)) <= found.keys() and max(found) < num_blocks + ahead
    ]
    outer = [one for one in fitting if not any(one.startswith(f"{other}.") for other in fitting)]
    if len(outer) > 1:
        alike = {one: len({rest for names in within[one].values() for rest in names} & set(own)) for one in outer}
        most = max(alike.values())
        outer = [one for one in outer if alike[one] == most > 0]
    if len(outer) != 1:
        raise NamesDoNotFitError(f"{len(outer)} lists of tensors are numbered as the {num_blocks} blocks are")
    places = {number: place for place, number in enumerate(kept)}
    return BlockNames(outer[0], path, places, num_blocks - len(kept))


def _by_list(tensors: Iterable[str]) -> dict[str, dict[int, set[str]]]:
    """Of each list of modules that names of tensors speak of: numbers in it, each with what follows in these names."""
    found: dict[str, dict[int, set[str]]] = {}
    for name in tensors:
        parts = name.split(".")
        for depth, part in enumerate(parts):
            if part.isdigit():
                rest = ".".join(parts[depth + 1 :])
                found.setdefault(".".join(parts[:depth]), {}).setdefault(int(part), set()).add(rest)
    return found
