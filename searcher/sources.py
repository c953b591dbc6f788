"""Where text comes from: Python's own documentation, files, folders and the datasets hub."""

import json
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searcher.errors import UsageError, first_line

MAX_CHARACTERS = 8_000_000
"""Text read at most: thousands of windows, and finding its shared runs stays a matter of seconds."""

SECTION_WORDS = 1000
"""Plain text is cut into documents of about this length, at the ends of paragraphs."""

SHORT_NAMES = {"wikitext2": "Salesforce/wikitext:wikitext-2-raw-v1:train", "c4": "allenai/c4:en:train"}
_ROWS_ARE_LINES = ("Salesforce/wikitext", "wikitext")
_HEADING = re.compile(r"= [^=].*[^=] =|= [^=] =")


@dataclass(frozen=True)
class Source:
    """Documents as they were found.

    Attributes:
        name: what tables call the text.
        documents: their texts.
        truncated: whether there was more than `MAX_CHARACTERS`.
    """

    name: str
    documents: tuple[str, ...]
    truncated: bool = False


def read_documents(data: str | None) -> Source:
    """Read text.

    Args:
        data: a `.txt`, `.jsonl` or `.parquet` file, a folder of datasets' `save_to_disk`, a datasets id as
            `id[:config[:split]]`, `wikitext2`, `c4`, or None for the topics of Python's own help.

    Raises:
        UsageError: there is no such text, or it cannot be read.
    """
    if data is None:
        return _python_topics()
    if not data.strip():
        raise UsageError(f"Data '{data}' names no text", "Name a file, a folder or a dataset, or leave --data out")
    path = Path(data).expanduser()
    exists = _exists(path)
    looks_like_a_path = path.suffix in (*_READERS, ".json") or data.startswith(("/", "./", "../", "~"))
    if not (exists or looks_like_a_path):
        return _limited(data, _from_hub(data))
    if not exists:
        raise UsageError(f"Data '{data}': there is no such file", "Check the path")
    if path.is_dir():
        return _limited(path.name, _from_folder(path))
    if path.suffix not in _READERS:
        raise UsageError(f"Data '{data}': files of type '{path.suffix}' are not read", f"Use {', '.join(_READERS)}")
    return _limited(path.name, _READERS[path.suffix](path))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a folder above that may not be entered, or a name no file can have
        raise UsageError(f"Data '{path}' cannot be read ({first_line(error)})", "Give a path you may read") from error


def _python_topics() -> Source:
    from pydoc_data.topics import topics

    return Source(f"pydoc_data.topics (Python {platform.python_version()})", tuple(topics.values()))


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


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            # Sections lose the newline between them, so a little over the limit would not show that there was more.
            return file.read(2 * MAX_CHARACTERS)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Data '{path}' cannot be read ({first_line(error)})", "Give a readable UTF-8 file") from error


def _from_text(path: Path) -> Iterator[str]:
    return sections(_read_text(path).splitlines())


def sections(lines: Iterable[str]) -> Iterator[str]:
    """Plain text as documents: whole paragraphs, about 1,000 words together; a WikiText title starts a new one.

    Text that goes on for 2,000 words without an empty line is cut at the end of a line, or within a longer one.
    """
    section: list[str] = []
    words = 0
    for line in _short_lines(lines):
        title = bool(_HEADING.fullmatch(line.strip()))
        long = words >= (2 * SECTION_WORDS if line.strip() else SECTION_WORDS)
        if section and (title or long):
            yield "\n".join(section)
            section, words = [], 0
        section.append(line)
        words += len(line.split())
    if section:
        yield "\n".join(section)


def _short_lines(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        words = line.split()
        if len(words) <= SECTION_WORDS:
            yield line
        else:
            yield from (" ".join(words[i : i + SECTION_WORDS]) for i in range(0, len(words), SECTION_WORDS))


def _from_jsonl(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _text_of(json.loads(line), f"'{path}', line {number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Data '{path}' cannot be read ({first_line(error)})", "Give a readable UTF-8 file") from error
    except json.JSONDecodeError as error:
        hint = "Write one JSON object with a 'text' field on each line"
        raise UsageError(f"Data '{path}', line {number} is not JSON ({error.msg})", hint) from error


def _text_of(row: Any, place: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        found = f"only {', '.join(map(str, row))}" if isinstance(row, dict) else type(row).__name__
        raise UsageError(f"Data {place} has no 'text' of type string, {found}", "Name the field or column 'text'")
    text: str = row["text"]
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write half a surrogate pair, which no tokenizer takes
        raise UsageError(f"Data {place} is not Unicode text ({error.reason})", "Mend the text") from error
    return text


def _from_parquet(path: Path) -> Iterator[str]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if "text" not in columns:
                raise UsageError(
                    f"Data '{path}' has no 'text' column, only {', '.join(columns)}", "Name the column 'text'"
                )
            for batch in file.iter_batches(batch_size=1024, columns=["text"]):
                yield from (_text_of({"text": value or ""}, f"'{path}'") for value in batch.column(0).to_pylist())
    except (OSError, ArrowException) as error:
        raise UsageError(
            f"Data '{path}' is no readable parquet file ({first_line(error)})", "Write it again"
        ) from error


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".txt": _from_text,
    ".jsonl": _from_jsonl,
    ".parquet": _from_parquet,
}


def _from_folder(path: Path) -> Iterator[str]:
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
    return (_text_of(row, f"'{path}'") for row in found)


def _from_hub(data: str) -> Iterator[str]:
    name, *rest = SHORT_NAMES.get(data, data).split(":")
    if len(rest) > 2:
        raise UsageError(f"Data '{data}' has {len(rest) + 1} parts", "Write a dataset as id[:config[:split]]")
    config, split = (*rest, "", "")[:2]
    try:
        from datasets import load_dataset

        rows = load_dataset(name, config or None, split=split or "train", streaming=True)
        texts = (_text_of(row, f"'{data}'") for row in rows)
        yield from sections(text.rstrip("\n") for text in texts) if name in _ROWS_ARE_LINES else texts
    except UsageError:
        raise
    except Exception as error:  # the hub, its client and a dataset's own format may fail in any way
        raise UsageError(
            f"Data '{data}' is no file here and cannot be had from the datasets hub ({first_line(error)})",
            "Check the name, as id[:config[:split]], and the connection; or give a .txt, .jsonl or .parquet file",
        ) from error
