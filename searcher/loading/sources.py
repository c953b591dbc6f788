"""Where text comes from: Python's own documentation, files, folders and the datasets hub."""

import codecs
import contextlib
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from searcher.contracts.json_lines import kind_of, parse_line
from searcher.errors import UsageError, first_line
from searcher.loading.answers import Spans
from searcher.loading.chat import Conversation, Render, conversation_of
from searcher.loading.words import count_words, cut_words

MAX_CHARACTERS = 8_000_000
"""Text read at most: thousands of windows, and finding its shared runs stays a matter of seconds."""

SECTION_WORDS = 1000
"""Plain text is cut into documents of about this length, at the ends of paragraphs."""

TOPICS = "pydoc"
"""Names the topics of Python's own help where a text must be named, such as beside another one."""

SHORT_NAMES = {"wikitext2": "Salesforce/wikitext:wikitext-2-raw-v1:train", "c4": "allenai/c4:en:train"}
_ROWS_ARE_LINES = ("Salesforce/wikitext", "wikitext")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_HEADING = re.compile(r"= [^=].*[^=] =|= [^=] =")


@dataclass(frozen=True)
class Source:
    """Documents as they were found.

    Attributes:
        name: what tables call the text.
        documents: their texts.
        truncated: whether there was more than `MAX_CHARACTERS`.
        said: where the documents are chats, what was said in each, without the template and the system's messages.
        answers: where the documents are chats and it was asked for, the spans of the answers in each.
        whole: whether documents stay as they are, even if paragraphs of them repeat others.
    """

    name: str
    documents: tuple[str, ...]
    truncated: bool = False
    said: tuple[str, ...] | None = None
    answers: Mapping[str, Spans] | None = None
    whole: bool = False


Row = str | Conversation


Answers = Callable[[Conversation], Spans]
"""Finds the answers in what `render` makes of a chat."""


def read_documents(data: str | None, render: Render | None = None, answers: Answers | None = None) -> Source:
    """Read text.

    Args:
        data: a `.txt`, `.jsonl` or `.parquet` file, a folder of datasets' `save_to_disk`, a datasets id as
            `id[:config[:split]]`, `wikitext2`, `c4`, or `pydoc` or None for the topics of Python's own help. Rows hold
            a `text`, or the `messages` of a chat.
        render: writes a chat as text; called only if there are chats, which None refuses.
        answers: finds the answers in them, where that is wanted.

    Raises:
        UsageError: there is no such text, or it cannot be read.
    """
    if data is None or data == TOPICS:
        return _python_topics()
    if not data.strip():
        raise UsageError(f"Data '{data}' names no text", "Name a file, a folder or a dataset, or leave --data out")
    path = Path(data).expanduser()
    exists = _exists(path)
    suffix = path.suffix.lower()
    looks_like_a_path = suffix in (*_READERS, ".json") or data.startswith(("/", "./", "../", "~"))
    if not (exists or looks_like_a_path):
        return _found(data, _from_hub(data), render, answers)
    if not exists:
        raise UsageError(f"Data '{data}': there is no such file", "Check the path")
    if path.is_dir():
        return _found(path.name, _from_folder(path), render, answers)
    if suffix not in _READERS:
        raise UsageError(f"Data '{data}': files of type '{path.suffix}' are not read", f"Use {', '.join(_READERS)}")
    return _found(path.name, _READERS[suffix](path), render, answers)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a folder above that may not be entered, or a name no file can have
        raise UsageError(f"Data '{path}' cannot be read ({first_line(error)})", "Give a path you may read") from error


def _python_topics() -> Source:
    from pydoc_data.topics import topics

    return Source(f"pydoc_data.topics (Python {platform.python_version()})", tuple(topics.values()))


def _found(name: str, rows: Iterable[Row], render: Render | None, answers: Answers | None) -> Source:
    """Rows as documents: those of text as they are, chats as the template writes them."""
    rows = iter(rows)
    first = next(rows, "")
    together = chain([first], rows)
    if isinstance(first, Conversation):
        return _chats(name, together, render, answers)
    return _limited(name, _texts(name, together))


def _texts(name: str, rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        if isinstance(row, Conversation):
            raise _mixed(f"{row.place} is a chat, but '{name}' began with text")
        yield row


def _chats(name: str, rows: Iterable[Row], render: Render | None, answers: Answers | None) -> Source:
    """Whole chats, up to the limit; one that would pass it is left out."""
    if render is None:
        raise UsageError(f"Data '{name}' holds chats, which need a model's template", "Give a text without 'messages'")
    kept: list[tuple[str, str]] = []
    spans: dict[str, Spans] = {}
    room = MAX_CHARACTERS
    for row in rows:
        if isinstance(row, str):
            raise _mixed(f"Data '{name}': row {len(kept) + 1} is text, but the ones before are chats")
        document = render(row)
        room -= len(document)
        if room < 0:
            break
        kept.append((document, row.said))
        if answers is not None:
            spans[document] = answers(row)
    if not kept:
        raise UsageError(f"Data '{name}' begins with a chat of more than {MAX_CHARACTERS:,} characters", "Cut it")
    told = tuple(said for _, said in kept)
    return Source(name, tuple(one for one, _ in kept), room < 0, told, None if answers is None else spans)


def _mixed(what: str) -> UsageError:
    return UsageError(what, "Put texts and chats into files of their own, and give both with --data")


def _limited(name: str, documents: Iterable[str]) -> Source:
    kept: list[str] = []
    room = MAX_CHARACTERS
    for document in documents:
        if len(document) > room:
            return Source(name, (*kept, document[:room]) if room else tuple(kept), truncated=True)
        kept.append(document)
        room -= len(document)
    if not any(document.strip() for document in kept):
        raise UsageError(f"Data '{name}' holds no text", "Give a text of some thousand words")
    return Source(name, tuple(kept))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A text file, in UTF-8 or in what the byte order mark at its beginning says."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
        with path.open(encoding=encoding) as file:
            yield file
    except UnicodeError as error:  # before OSError, which knows more of what is wrong with files
        raise UsageError(
            f"Data '{path}' cannot be read ({first_line(error)})",
            f"Convert it to UTF-8, such as with: iconv -f latin1 -t utf-8 {path.name} > new{path.suffix}",
        ) from error
    except OSError as error:
        raise UsageError(f"Data '{path}' cannot be read ({first_line(error)})", "Give a readable file") from error


def _read_text(path: Path) -> str:
    with _opened(path) as file:
        # Sections lose the newline between them, so a little over the limit would not show that there was more.
        text = file.read(2 * MAX_CHARACTERS)
    if "\0" in text:
        raise UsageError(
            f"Data '{path}' is no text: character {text.index(chr(0)) + 1:,} is NUL",
            "Give a text file; one in UTF-16 needs a byte order mark, or convert it with iconv -f utf-16le -t utf-8",
        )
    return text


def _from_text(path: Path) -> Iterator[str]:
    return sections(_read_text(path).splitlines())


def sections(lines: Iterable[str], words: int = SECTION_WORDS) -> Iterator[str]:
    """Plain text as documents: whole paragraphs, about 1,000 words together; a WikiText title starts a new one.

    Text that goes on for twice as long without an empty line is cut at the end of a line, or within a longer one.

    Args:
        lines: of the text.
        words: about how long a document is; see :func:`searcher.loading.words.count_words`.
    """
    section: list[str] = []
    length = 0.0
    for line in _short_lines(lines, words):
        title = bool(_HEADING.fullmatch(line.strip()))
        long = length >= (2 * words if line.strip() else words)
        if section and (title or long):
            yield "\n".join(section)
            section, length = [], 0.0
        section.append(line)
        length += count_words(line)
    if section:
        yield "\n".join(section)


def _short_lines(lines: Iterable[str], words: int) -> Iterator[str]:
    for line in lines:
        yield from [line] if count_words(line) <= words else cut_words(line, words)


def _from_jsonl(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                place = f"Data '{path}', line {number}"
                yield _row_of(parse_line(line, place, "Write one JSON object with a 'text' field on each line"), place)


def _row_of(row: Any, place: str) -> Row:
    """The text of a row, or else the chat."""
    if isinstance(row, dict) and "text" not in row and "messages" in row:
        return conversation_of(row["messages"], place)
    if not isinstance(row, dict) or "text" not in row:
        found = f"only {', '.join(map(str, row))}" if isinstance(row, dict) and row else f"but is {kind_of(row)}"
        raise UsageError(
            f"{place} has no 'text' of type string, {found}", "Name the field or column 'text', or 'messages' for chats"
        )
    text = row["text"]
    if not isinstance(text, str):
        hint = "Leave such rows out" if text is None else "Each 'text' must be one string"
        raise UsageError(f"{place} has no 'text' of type string, but {kind_of(text)}", hint)
    return text


def _from_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            column = next((name for name in ("text", "messages") if name in columns), None)
            if column is None:
                raise UsageError(
                    f"Data '{path}' has no 'text' column, only {', '.join(columns)}",
                    "Name the column 'text', or 'messages' for chats",
                )
            batches = file.iter_batches(batch_size=1024, columns=[column])
            values = (value for batch in batches for value in batch.column(0).to_pylist())
            for number, value in enumerate(values, start=1):
                yield _row_of({column: value}, f"Data '{path}', row {number}")
    except (OSError, ArrowException) as error:
        raise UsageError(
            f"Data '{path}' is no readable parquet file ({first_line(error)})", "Write it again"
        ) from error


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".txt": _from_text,
    ".jsonl": _from_jsonl,
    ".parquet": _from_parquet,
}


def _from_folder(path: Path) -> Iterator[Row]:
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"Data '{path}' is a folder that datasets did not write ({first_line(error)})",
            "Write it with save_to_disk, or name a file in it",
        ) from error
    if isinstance(found, DatasetDict):
        if not found:
            raise UsageError(f"Data '{path}' is a dataset without splits", "Save at least one, such as 'train'")
        found = found["train"] if "train" in found else next(iter(found.values()))
    return (_row_of(row, f"Data '{path}', row {number}") for number, row in enumerate(found, start=1))


def _from_hub(data: str) -> Iterator[Row]:
    name, *rest = SHORT_NAMES.get(data, data).split(":")
    if len(rest) > 2:
        raise UsageError(f"Data '{data}' has {len(rest) + 1} parts", "Write a dataset as id[:config[:split]]")
    config, split = (*rest, "", "")[:2]
    try:
        from datasets import load_dataset

        rows = load_dataset(name, config or None, split=split or "train", streaming=True)
        found = (_row_of(row, f"Data '{data}', row {number}") for number, row in enumerate(rows, start=1))
        yield from sections(text.rstrip("\n") for text in _texts(data, found)) if name in _ROWS_ARE_LINES else found
    except UsageError:
        raise
    except Exception as error:  # the hub, its client and a dataset's own format may fail in any way
        raise UsageError(
            f"Data '{data}' is no file here and cannot be had from the datasets hub ({first_line(error)})",
            "Check the name, as id[:config[:split]], and the connection; or give a .txt, .jsonl or .parquet file",
        ) from error
