"""Documents shared out to three parts that have no long run of words in common, within a text and between texts."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from searcher.loading.words import find_units

RUN_WORDS = 20
"""Documents that share a run of this many words go to the same part; 40 characters in scripts without spaces."""

SHARES = {"search": 0.4, "heal": 0.3, "report": 0.3}
"""Characters of each part, as near as whole documents allow."""

Parts = dict[str, tuple[str, ...]]
"""The documents of each part by its name, in their order."""


def fingerprint(documents: Iterable[str]) -> str:
    """sha256 of documents in order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def split_documents(documents: Sequence[str]) -> Parts:
    """Share documents out to the three parts, those with a common run of 20 words to the same one.

    Connected documents are taken in the order of a hash of the whole text and their own, and each time given to the
    part that lacks most of its share: the parts are random, near their shares, and depend on the text alone.

    Returns:
        The parts by name, documents in their order.
    """
    return split_together([documents])[0]


def split_together(texts: Sequence[Sequence[str]], told: Sequence[Sequence[str]] | None = None) -> list[Parts]:
    """Share several texts out, each by itself to the three parts, with no run of 20 words between parts of any two.

    Documents of several texts that are connected go to the same part. They come first, each time to the part that lacks
    most of its share, as a fraction of a text and summed over the texts they are of. The rest of each text follows as
    in :func:`split_documents`, so that texts that share nothing are split as each would be alone.

    Args:
        texts: documents of each.
        told: what of each document counts when runs are looked for; by default all.

    Returns:
        The parts of each text.
    """
    sharings = [_Sharing(documents) for documents in texts]
    places = [(text, number) for text, documents in enumerate(texts) for number in range(len(documents))]
    alone: list[list[list[int]]] = [[] for _ in texts]
    joint: list[dict[int, list[int]]] = []
    for group in connected([document for documents in told or texts for document in documents]):
        by_text: dict[int, list[int]] = {}
        for place in group:
            text, number = places[place]
            by_text.setdefault(text, []).append(number)
        if len(by_text) > 1:
            joint.append(by_text)
        else:
            ((text, numbers),) = by_text.items()
            alone[text].append(numbers)
    _share_joint(joint, sharings)
    for sharing, groups in zip(sharings, alone, strict=True):
        sharing.share(groups)
    return [sharing.parts() for sharing in sharings]


def _share_joint(groups: list[dict[int, list[int]]], sharings: "Sequence[_Sharing]") -> None:
    """Give each group, by text the numbers of its documents, to one part; whatever the order of the texts."""
    whole = "".join(sorted(sharing.whole for sharing in sharings))
    tickets = [sorted(sharings[text].ticket(numbers).hex() for text, numbers in group.items()) for group in groups]
    for place in sorted(
        range(len(groups)), key=lambda i: hashlib.sha256("".join([whole, *tickets[i]]).encode()).digest()
    ):
        group = groups[place]
        lacks = {
            part: sum(sharings[text].lack(part, numbers) / sharings[text].length for text, numbers in group.items())
            for part in SHARES
        }
        part = max(SHARES, key=lambda part: round(lacks[part], 9))  # sums in another order may round otherwise
        for text, numbers in group.items():
            sharings[text].give(part, numbers)


@dataclass
class _Sharing:
    """The documents of one text on their way into the parts."""

    documents: Sequence[str]
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SHARES, 0))
    members: dict[str, list[int]] = field(default_factory=lambda: {part: [] for part in SHARES})

    def __post_init__(self) -> None:
        self.whole = fingerprint(self.documents)
        self.length = max(1, sum(map(len, self.documents)))

    def ticket(self, numbers: Sequence[int]) -> bytes:
        """By which groups of documents are put into a random order."""
        return hashlib.sha256((self.whole + fingerprint(self.documents[i] for i in numbers)).encode()).digest()

    def lack(self, part: str, numbers: Sequence[int]) -> float:
        """How many characters the part lacks of its share, once these documents have been given to some part."""
        return SHARES[part] * (sum(self.sizes.values()) + self._size(numbers)) - self.sizes[part]

    def give(self, part: str, numbers: Sequence[int]) -> None:
        self.sizes[part] += self._size(numbers)
        self.members[part] += numbers

    def share(self, groups: Sequence[Sequence[int]]) -> None:
        """Give groups that no other text has a part in."""
        for numbers in sorted(groups, key=self.ticket):
            self.give(max(SHARES, key=lambda part: self.lack(part, numbers)), numbers)

    def parts(self) -> Parts:
        return {part: tuple(self.documents[i] for i in sorted(numbers)) for part, numbers in self.members.items()}

    def _size(self, numbers: Sequence[int]) -> int:
        return sum(len(self.documents[i]) for i in numbers)


def sharing_a_run(told: Sequence[str], others: Iterable[str]) -> list[bool]:
    """Of each document, whether it has a run of 20 words in common with any of the others.

    Args:
        told: what of each document counts.
        others: the same of those that nothing may be shared with.
    """
    found = [_runs(document) for document in others]
    taken = np.unique(np.concatenate([np.empty(0, np.uint64), *found]))
    return [bool(np.isin(_runs(document), taken, assume_unique=True).any()) for document in told]


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
