"""What is computed on the dense model, kept between runs: what objectives look up in it, and its statistics.

An entry is found by all that its numbers depend on: model, dtype, versions, processor (see
:func:`searcher.loading.environment.dense_identity`), the source of this package, the tokens, and what is computed. So
values are the same to the last bit with it and without. An entry that is damaged, or cannot be read or written, is
computed again: a cache may cost time, never a run.
"""

import contextlib
import functools
import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from joblib import Memory
from torch import Tensor

from searcher.errors import UsageError
from searcher.loading.embedded import cache_dir
from searcher.runs.fingerprint import digest_of
from searcher.runs.notation import parse_bytes

LIMIT = "1GiB"
"""What all entries take at most, unless `$SEARCHER_CACHE_LIMIT` says otherwise; those used longest ago make room."""
LARGEST = 0.25
"""Of the limit: an entry larger than this is not kept, since it would drive out all others, and is slow to read."""

Tensors = dict[str, Tensor]
Entry = tuple[str, bytes]
"""The sha256 of what follows, and tensors in the format of safetensors."""


def location() -> Path:
    """The folder of the entries."""
    return cache_dir() / "dense"


def size_limit() -> int:
    """Bytes that the entries may take; 0 keeps nothing.

    Raises:
        UsageError: `$SEARCHER_CACHE_LIMIT` is no size.
    """
    given = os.environ.get("SEARCHER_CACHE_LIMIT", LIMIT)
    try:
        return 0 if given.strip() == "0" else parse_bytes(given)
    except UsageError as error:
        raise UsageError(
            f"SEARCHER_CACHE_LIMIT is '{given}', which is no size", "Set it to 2GiB, say, or to 0 for none"
        ) from error


def kept_entry(key: str, entry: Entry | None) -> Entry:
    """What joblib keeps by its key alone; raises LookupError where there is nothing to keep."""
    if entry is None:
        raise LookupError(key)
    return entry


@dataclass
class DenseCache:
    """Tensors that follow from the dense model, by what they are and the tokens they were computed on.

    Args:
        identity: of the model and this machine.
        say: told once what is wrong with the cache.
    """

    identity: Mapping[str, Any]
    say: Callable[[str], None] | None = None
    _limit: int = field(default_factory=size_limit)
    _wrong: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"say": None}  # in another process there is nobody to be told

    def get(self, what: str, inputs: Iterable[Tensor], compute: Callable[[], Tensors]) -> tuple[Tensors, bool]:
        """The tensors, on the CPU if they were kept, and whether they were; else they are computed, and kept.

        Args:
            what: is computed, with all options that decide it.
            inputs: tokens and the like that it is computed on.
            compute: computes it.
        """
        inputs = list(inputs)
        if (found := self.find(what, inputs)) is not None:
            return found, True
        made = compute()
        self.keep(what, inputs, made)
        return made, False

    def find(self, what: str, inputs: Iterable[Tensor]) -> Tensors | None:
        """What was kept, on the CPU; None if there is nothing, or nothing sound."""
        return self._read(self._key(what, inputs)) if self._limit else None

    def keep(self, what: str, inputs: Iterable[Tensor], tensors: Tensors) -> None:
        """Keep this from now on, as far as there is room."""
        if self._limit:
            self._write(self._key(what, inputs), tensors)

    def _key(self, what: str, inputs: Iterable[Tensor]) -> str:
        shapes = [[str(tensor.dtype), list(tensor.shape), _digest(tensor)] for tensor in inputs]
        return digest_of({"what": what, "inputs": shapes, "source": own_source(), "identity": dict(self.identity)})

    def _read(self, key: str) -> Tensors | None:
        with self._forgiving():
            cached = self._entries()
            if not cached.check_call_in_cache(key, None):
                return None
            shelved = cached.call_and_shelve(key, None)
            try:
                digest, content = shelved.get()
                if hashlib.sha256(content).hexdigest() == digest:
                    return safetensors.torch.load(content)
            except Exception:  # whatever a damaged file makes of itself
                pass
            shelved.clear()
        return None

    def _write(self, key: str, tensors: Tensors) -> None:
        with self._forgiving():
            content = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
            if len(content) <= LARGEST * self._limit:
                self._entries()(key, (hashlib.sha256(content).hexdigest(), content))
                open_memory().reduce_size(bytes_limit=self._limit)

    def _entries(self) -> Any:
        return open_memory().cache(kept_entry, ignore=["entry"])

    @contextlib.contextmanager
    def _forgiving(self) -> Any:
        """What goes wrong with files is told once; joblib tells some of it by warnings."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                yield
            except (OSError, LookupError) as error:
                self._complain(error)
        for warning in told:
            self._complain(warning.message)

    def _complain(self, wrong: object) -> None:
        if self.say and not self._wrong:
            self.say(
                f"What is computed on the dense model cannot be kept in {location()} ({wrong}); it is computed again"
            )
        self._wrong = True


def open_memory() -> Memory:
    """The cache as joblib sees it.

    Raises:
        OSError: its folder cannot be made.
    """
    logging.getLogger("joblib").setLevel(logging.ERROR)
    return Memory(location(), verbose=0)


@functools.cache
def own_source() -> str:
    """A sha256 over the modules of the engine: a change of any may change how something is computed."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()
