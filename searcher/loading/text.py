"""Text in three disjoint parts: plans are chosen on the first, healed on the second, judged on the third."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from searcher.loading.sources import SECTION_WORDS, read_documents, sections
from searcher.loading.words import count_words, find_units

RUN_WORDS = 20
"""Documents that share a run of this many words go to the same part; 40 characters in scripts without spaces."""

SHARES = {"search": 0.4, "heal": 0.3, "report": 0.3}
"""Characters of each part, as near as whole documents allow."""

FAIR = 0.1
"""Of its share a part must get at least this much; else documents are cut into shorter ones."""

FINER = tuple(SECTION_WORDS // parts for parts in (2, 4, 8, 16, 32, 64))
"""Words of these shorter documents: the first with which every part gets enough is taken."""


@dataclass(frozen=True)
class Text:
    """Documents in three parts that share no run of 20 words.

    Attributes:
        name: what tables call the text.
        fingerprint: sha256 of the documents, repeats dropped; the parts depend on nothing else.
        search: documents on which plans are chosen.
        heal: documents on which healing is fitted.
        report: documents on which claims are made.
        truncated: whether the source held more than was read.
    """

    name: str
    fingerprint: str
    search: tuple[str, ...]
    heal: tuple[str, ...]
    report: tuple[str, ...]
    truncated: bool = False


def load_text(data: str | None) -> Text:
    """Read and split text; see :func:`searcher.loading.sources.read_documents` for what `data` may be.

    Raises:
        UsageError: there is no such text, or it cannot be read.
    """
    source = read_documents(data)
    documents = drop_repeats(source.documents)
    parts = split_documents(documents)
    if not _fair(parts):
        documents, parts = _finer(documents) or (documents, parts)
    return Text(source.name, fingerprint(documents), **parts, truncated=source.truncated)


def _fair(parts: Mapping[str, Sequence[str]]) -> bool:
    sizes = {part: sum(map(len, documents)) for part, documents in parts.items()}
    return all(sizes[part] >= FAIR * SHARES[part] * sum(sizes.values()) > 0 for part in SHARES)


def _finer(documents: Sequence[str]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]] | None:
    """Shorter documents and their parts, for one long line, a few books, or lines that repeat; None if none will do."""
    lines = list(_without_repeated_lines(documents))
    for words in FINER:
        shorter = drop_repeats(section for document in lines for section in sections(document, words))
        if _fair(parts := split_documents(shorter)):
            return shorter, parts
    return None


def _without_repeated_lines(documents: Iterable[str]) -> Iterator[list[str]]:
    """The lines of each document but those that stood before and are so long that they would join documents."""
    seen: set[str] = set()
    for document in documents:
        lines = []
        for line in document.splitlines():
            key = " ".join(line.split())
            if key not in seen or count_words(line) < RUN_WORDS:
                lines.append(line)
            seen.add(key)
        yield lines


def fingerprint(documents: Iterable[str]) -> str:
    """sha256 of documents in order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def drop_repeats(documents: Iterable[str]) -> tuple[str, ...]:
    """The documents without the paragraphs that stood before, and without those then empty."""
    seen: set[str] = set()
    kept = []
    for document in documents:
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", document):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                paragraphs.append(paragraph)
        if paragraphs:
            kept.append("\n\n".join(paragraphs))
    return tuple(kept)


def split_documents(documents: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Share documents out to the three parts, those with a common run of 20 words to the same one.

    Connected documents are taken in the order of a hash of the whole text and their own, and each time given to the
    part that lacks most of its share: the parts are random, near their shares, and depend on the text alone.

    Returns:
        The parts by name, documents in their order.
    """
    whole = fingerprint(documents)
    groups = connected(documents)
    groups.sort(key=lambda group: hashlib.sha256((whole + fingerprint(documents[i] for i in group)).encode()).digest())
    sizes = dict.fromkeys(SHARES, 0)
    members: dict[str, list[int]] = {part: [] for part in SHARES}
    for group in groups:
        total = sum(sizes.values()) + (size := sum(len(documents[i]) for i in group))
        part = max(SHARES, key=lambda part: SHARES[part] * total - sizes[part])
        sizes[part] += size
        members[part] += group
    return {part: tuple(documents[i] for i in sorted(numbers)) for part, numbers in members.items()}


def connected(documents: Sequence[str]) -> list[list[int]]:
    """Groups of the numbers of documents that are joined by common runs of 20 words, directly or through others."""
    runs = [_runs(document) for document in documents]
    owners = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    hashes = np.concatenate([np.empty(0, np.uint64), *runs])
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    ends = owners[order[same]], owners[order[same + 1]]
    joined = coo_array((np.ones(len(same), np.int8), ends), shape=(len(runs), len(runs)))
    groups: dict[int, list[int]] = {}
    for number, label in enumerate(connected_components(joined, directed=False)[1].tolist() if runs else ()):
        groups.setdefault(label, []).append(number)
    return list(groups.values())


def _runs(document: str) -> NDArray[np.uint64]:
    """Hashes of runs of 20 words, with words as typed and as letters only: a run is common if it is so in either."""
    views = (document, " ".join(re.findall(r"\w+", document.lower())))
    return np.unique(np.concatenate([find_units(view).runs(RUN_WORDS) for view in views]))
