"""Text in three disjoint parts: plans are chosen on the first, healed on the second, judged on the third."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from searcher.sources import read_documents

RUN_WORDS = 20
"""Documents that share a run of this many words go to the same part."""

SHARES = {"search": 0.4, "heal": 0.3, "report": 0.3}
"""Characters of each part, as near as whole documents allow."""


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
    """Read and split text; see :func:`searcher.sources.read_documents` for what `data` may be.

    Raises:
        UsageError: there is no such text, or it cannot be read.
    """
    source = read_documents(data)
    documents = drop_repeats(source.documents)
    parts = split_documents(documents)
    return Text(source.name, fingerprint(documents), **parts, truncated=source.truncated)


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
    parent = list(range(len(documents)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first_with: dict[int, int] = {}
    for number, document in enumerate(documents):
        for run in _runs(document):
            other = root(first_with.setdefault(run, number))
            parent[max(other, root(number))] = min(other, root(number))
    groups: dict[int, list[int]] = {}
    for number in range(len(documents)):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())


def _runs(document: str) -> Iterator[int]:
    """Hashes of the runs of 20 words, with words as typed and as letters only: a run is common if it is so in either.

    The hashes differ between processes, but are only compared with each other.
    """
    for words in (document.split(), re.findall(r"\w+", document.lower())):
        for start in range(len(words) - RUN_WORDS + 1):
            yield hash(tuple(words[start : start + RUN_WORDS]))
