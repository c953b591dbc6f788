"""Text in three disjoint parts: plans are chosen on the first, healed on the second, judged on the third."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from searcher.errors import UsageError
from searcher.loading.answers import Spans
from searcher.loading.chat import Render
from searcher.loading.sources import SECTION_WORDS, Answers, Source, read_documents, sections
from searcher.loading.splits import RUN_WORDS, SHARES, Parts, fingerprint, sharing_a_run, split_together
from searcher.loading.words import count_words
from searcher.runs.generated import Generated, parse_generated

FAIR = 0.1
"""Of its share a part must get at least this much; else documents are cut into shorter ones."""

FINER = tuple(SECTION_WORDS // parts for parts in (2, 4, 8, 16, 32, 64))
"""Words of these shorter documents: the first with which every part gets enough is taken."""


@dataclass(frozen=True)
class Text:
    """Documents in three parts that share no run of 20 words.

    Attributes:
        name: what tables call the text.
        fingerprint: sha256 of the documents, repeats dropped; the parts depend on nothing else but the texts beside it.
        search: documents on which plans are chosen.
        heal: documents on which healing is fitted.
        report: documents on which claims are made.
        truncated: whether the source held more than was read.
        answers: where it holds chats and it was asked for, the spans of the answers in each chat.
    """

    name: str
    fingerprint: str
    search: tuple[str, ...]
    heal: tuple[str, ...]
    report: tuple[str, ...]
    truncated: bool = False
    answers: Mapping[str, Spans] | None = None


@dataclass(frozen=True)
class Texts:
    """One text or several, of which no part of one shares a run of 20 words with another part of any.

    Attributes:
        members: the texts in the order given, their names all different.
        healing: texts to heal on in place of theirs, if there are such: one of the members, or one of which all that
            shares no run of 20 words with a search or a report part is in its heal part.
    """

    members: tuple[Text, ...]
    healing: tuple[Text, ...] = ()

    @property
    def name(self) -> str:
        """What tables call them together."""
        return " + ".join(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """What tables call each."""
        return tuple(text.name for text in self.members)

    @property
    def fingerprint(self) -> str:
        """That of the only text; of several, one of theirs in order."""
        first, *others = (text.fingerprint for text in self.members)
        return hashlib.sha256("".join([first, *others]).encode()).hexdigest() if others else first

    @property
    def healed_on(self) -> tuple[Text, ...]:
        """The texts whose heal parts healing reads."""
        return self.healing or self.members

    @property
    def heal_name(self) -> str:
        """What tables call these together."""
        return " + ".join(text.name for text in self.healed_on)

    @property
    def heal_fingerprint(self) -> str | None:
        """Of the documents to heal on, where they are not simply the heal parts of the members."""
        parts = [fingerprint(text.heal) for text in self.healing]
        return hashlib.sha256("".join(parts).encode()).hexdigest() if parts else None


def load_text(data: str | None) -> Text:
    """Read and split one text; see :func:`load_texts`."""
    return load_texts(None if data is None else (data,)).members[0]


Write = Callable[[Generated], Source]
"""Gives text that the dense model writes."""


def _no_model(wanted: Generated) -> Source:
    raise UsageError(f"Data '{wanted.name}' is written by the model, and there is none here", "Give a text")


@dataclass(frozen=True)
class Reading:
    """Texts as they were read, and those that the model is still to write.

    Attributes:
        sources: what is measured on.
        heal_sources: what is healed on, if it is something else.
    """

    sources: tuple[Source | Generated, ...]
    heal_sources: tuple[Source | Generated, ...] = ()

    @property
    def needs_model(self) -> bool:
        """Whether the model is to write some of it."""
        return any(isinstance(one, Generated) for one in (*self.sources, *self.heal_sources))

    @property
    def healed_on(self) -> tuple[Source | Generated, ...]:
        """What is healed on, or at least in part."""
        return self.heal_sources or self.sources

    @property
    def truncated(self) -> tuple[str, ...]:
        """Names of those whose source held more than was read."""
        read = (one for one in (*self.sources, *self.heal_sources) if isinstance(one, Source))
        return tuple(dict.fromkeys(one.name for one in read if one.truncated))

    def split(self, write: Write = _no_model) -> Texts:
        """The texts in their parts; see :func:`load_texts`.

        Raises:
            UsageError: two are the same, nothing is left to heal on, or the model cannot write.
        """
        both = [
            [write(one) if isinstance(one, Generated) else one for one in some]
            for some in (self.sources, self.heal_sources)
        ]
        return split_sources(*both)


def read_texts(
    data: Sequence[str] | None,
    render: Render | None = None,
    heal_data: Sequence[str] | None = None,
    answers: Answers | None = None,
) -> Reading:
    """Read text that is there; see :func:`load_texts`.

    Args:
        data: what is measured on.
        render: writes a chat as text.
        heal_data: what is healed on, if it is something else.
        answers: finds the answers in the chats that are healed on, where that is wanted.

    Raises:
        UsageError: there is no such text, or it cannot be read.
    """

    def read(one: str | None, answers: Answers | None) -> Source | Generated:
        wanted = None if one is None else parse_generated(one)
        return wanted or read_documents(one, render, answers)

    measured_on = tuple(read(one, None if heal_data else answers) for one in data or (None,))
    return Reading(measured_on, tuple(read(one, answers) for one in heal_data or ()))


def load_texts(
    data: Sequence[str] | None, render: Render | None = None, heal_data: Sequence[str] | None = None
) -> Texts:
    """Read and split text.

    Args:
        data: what :func:`searcher.loading.sources.read_documents` reads, each; None for its default.
        render: writes a chat as text; called only if there are chats, which None refuses.
        heal_data: the same of texts to heal on in place of the heal parts of `data`. How `data` is split does not
            depend on them. A text of `data` gives its heal part; another one all documents that have no run of 20 words
            in common with a search or a report part.

    Raises:
        UsageError: there is no such text, it cannot be read, two are the same, or nothing is left to heal on.
    """
    return read_texts(data, render, heal_data).split()


def split_sources(sources: Sequence[Source], heal_sources: Sequence[Source] = ()) -> Texts:
    """Split what was read; see :func:`load_texts`.

    Raises:
        UsageError: two are the same, or nothing is left to heal on.
    """
    begun = [_Draft.of(source) for source in sources]
    drafts = _share_out(begun)
    names = _different_names([source.name for source in sources])
    members = [
        Text(name, draft.fingerprint, **draft.parts, truncated=source.truncated, answers=source.answers)
        for name, draft, source in zip(names, drafts, sources, strict=True)
    ]
    _refuse_twins(members)
    known = {draft.fingerprint: text for draft, text in zip(begun, members, strict=True)}
    healing, seen = [], [told for draft in drafts for told in draft.told_outside("heal")]
    heal_names = _different_names([source.name for source in heal_sources])
    for name, source in zip(heal_names, heal_sources, strict=True):
        draft = _Draft.of(source)
        found = known.get(draft.fingerprint) or _apart(name, draft, seen, source.truncated)
        healing.append(replace(found, answers=source.answers))
    _refuse_twins(healing)
    return Texts(tuple(members), tuple(healing))


def _apart(name: str, draft: "_Draft", seen: Sequence[str], truncated: bool) -> Text:
    """A text to heal on, without what it shares with text that plans are chosen or judged on.

    Where little is left, as of one long document, it is cut into shorter ones, so that less goes.
    """
    for words in (None, *FINER):
        one = draft if words is None else draft.finer(words)
        shared = sharing_a_run(one.told, seen)
        kept = tuple(document for document, hit in zip(one.documents, shared, strict=True) if not hit)
        if sum(map(len, kept)) >= FAIR * sum(map(len, one.documents)) > 0:
            return Text(name, draft.fingerprint, (), kept, (), truncated)
    raise UsageError(
        f"Heal data '{name}' has runs of {RUN_WORDS} words in common with the text that plans are chosen and judged on "
        f"nearly everywhere, so that less than {FAIR:.0%} of it could be used",
        "Give another text with --heal-data; or leave it out, and the heal part of --data is used",
    )


def _different_names(names: Sequence[str]) -> list[str]:
    """The names, numbered where files in different folders are called the same."""
    count, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if count[name] > 1 else name)
    return found


def _refuse_twins(texts: Sequence[Text]) -> None:
    for number, text in enumerate(texts):
        for other in texts[:number]:
            if text.fingerprint == other.fingerprint:
                raise UsageError(f"Data '{text.name}' is the same text as '{other.name}'", "Give each text once")


@dataclass(frozen=True)
class _Draft:
    """The documents of a text before they are final, and the parts they make.

    Attributes:
        documents: without repeats.
        said: of chats, what was said in each; None for plain text.
        parts: empty before they are shared out.
    """

    documents: tuple[str, ...]
    said: tuple[str, ...] | None
    parts: Parts

    @classmethod
    def of(cls, source: Source) -> "_Draft":
        told = source.documents if source.whole else source.said
        if told is None:
            return cls(drop_repeats(source.documents), None, {})
        once = {said: place for place, said in reversed(list(enumerate(told)))}  # the first chat of equal ones
        kept = sorted(once.values())
        return cls(tuple(source.documents[i] for i in kept), tuple(told[i] for i in kept), {})

    @property
    def told(self) -> tuple[str, ...]:
        """What of each document counts when runs are looked for."""
        return self.documents if self.said is None else self.said

    def told_outside(self, part: str) -> Iterator[str]:
        """The same of the documents of the other parts."""
        told = dict(zip(self.documents, self.told, strict=True))
        for name, documents in self.parts.items():
            if name != part:
                yield from (told[document] for document in documents)

    @property
    def fingerprint(self) -> str:
        """Of all that the parts depend on."""
        return fingerprint([*self.documents, *(self.said or ())])

    def finer(self, words: int) -> "_Draft":
        """Shorter documents, for one long line, a few books, or lines that repeat."""
        lines = _without_repeated_lines(self.documents)
        return _Draft(drop_repeats(section for document in lines for section in sections(document, words)), None, {})


def _share_out(drafts: Sequence[_Draft]) -> list[_Draft]:
    """The drafts with their parts, of shorter documents where a part would get too little otherwise."""
    found = _with_parts(drafts)
    for words in FINER:
        if all(_fair(draft.parts) for draft in found):
            return found
        found = _with_parts([d if _fair(d.parts) else drafts[i].finer(words) for i, d in enumerate(found)])
    return _with_parts([d if _fair(d.parts) else drafts[i] for i, d in enumerate(found)])


def _with_parts(drafts: Sequence[_Draft]) -> list[_Draft]:
    parts = split_together([draft.documents for draft in drafts], [draft.told for draft in drafts])
    return [_Draft(draft.documents, draft.said, found) for draft, found in zip(drafts, parts, strict=True)]


def _fair(parts: Mapping[str, Sequence[str]]) -> bool:
    sizes = {part: sum(map(len, documents)) for part, documents in parts.items()}
    return all(sizes[part] >= FAIR * SHARES[part] * sum(sizes.values()) > 0 for part in SHARES)


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
