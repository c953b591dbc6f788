"""Multiple-choice items from a file, as token batches: what `accuracy` and `stability` measure on.

An item is scored as lm-evaluation-harness scores a `multiple_choice` task with a space between context and choice: by
the log-likelihood of each choice after the context. Its token ids are made in the same way, so the numbers agree.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from searcher.contracts.json_lines import parse_line
from searcher.contracts.objective import Candidate, Split, TokenBatch
from searcher.errors import UsageError

DELIMITER = " "
"""Stands between context and choice."""
BATCH_TOKENS = 512
"""Tokens run together, padding included: enough for one core, and little enough for several to share the items."""
PADDING = 0
"""Any token will do: a causal model does not look ahead, and what follows the choice is not scored."""
FORMAT = 'Expected {"context": text, "choices": [text, text, …], "answer": index of the right choice, from 0}'


@dataclass(frozen=True)
class Item:
    """A question of a file.

    Attributes:
        place: file and line, for messages.
        context: what stands before each choice; may be empty.
        choices: two or more, none empty.
        answer: index of the right one.
    """

    place: str
    context: str
    choices: tuple[str, ...]
    answer: int

    @property
    def text(self) -> str:
        """What makes it the same question as another."""
        return json.dumps([self.context, self.choices])


@dataclass(frozen=True)
class EncodedItem:
    """An item as token ids.

    Attributes:
        item: the item.
        rows: context and choice, for each choice.
        scored: how many of a row's last tokens are the choice.
    """

    item: Item
    rows: tuple[tuple[int, ...], ...]
    scored: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Length of the longest row."""
        return max(map(len, self.rows))


def token_batches(file: str, items: int, tokenizer: Any, split: Split) -> list[TokenBatch]:
    """The items of a split, grouped by length and padded on the right; all choices of an item are in one batch.

    A batch gives one number an item. Its `extra` holds `choices`, int64 (items,), how many rows each item has;
    `answer`, int64 (items,); `characters`, int64 (rows,), of each choice.

    Args:
        file: JSON lines of `{"context", "choices", "answer"}`.
        items: how many to take at most; fewer are a part of more.
        tokenizer: the model's.
        split: `search` and `report` get different items.

    Raises:
        UsageError: the file is missing, a line is no item, or the tokenizer cannot encode it.
    """
    chosen = take(split_items(read_items(file), split), items)
    return [_batch(members) for members in pack(encode(item, tokenizer) for item in chosen)]


def read_items(file: str) -> list[Item]:
    """The items of a file, in its order; questions that are there more than once are kept once.

    Raises:
        UsageError: naming the line and the field that is wrong.
    """
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"File '{file}' of multiple-choice items cannot be read: {error.strerror}", FORMAT) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"File '{file}' is not UTF-8: {error.reason} at byte {error.start}", "Save it as UTF-8"
        ) from error
    read: dict[str, Item] = {}
    for number, line in enumerate(text.split("\n"), start=1):  # not at other line ends within a text
        if line.strip():
            item = _parse(line, f"{file}, line {number}")
            first = read.setdefault(item.text, item)
            if first.answer != item.answer:
                raise UsageError(
                    f"{item.place}: the question of {first.place} with another 'answer'", "Keep the line that is right"
                )
    if not read:
        raise UsageError(f"File '{file}' holds no multiple-choice items", FORMAT)
    return list(read.values())


def _parse(line: str, place: str) -> Item:
    fields = parse_line(line, place, FORMAT)
    if not isinstance(fields, dict):
        raise UsageError(f"{place}: not a JSON object", FORMAT)
    for name in ("context", "choices", "answer"):
        if name not in fields:
            raise UsageError(f"{place}: no field '{name}'", FORMAT)
    context, choices, answer = fields["context"], fields["choices"], fields["answer"]
    if not isinstance(context, str):
        raise UsageError(f"{place}: 'context' is not a text: {context!r}", FORMAT)
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise UsageError(f"{place}: 'choices' is not a list of two or more texts, none empty: {choices!r}", FORMAT)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise UsageError(f"{place}: 'answer' is not an index from 0 to {len(choices) - 1}: {answer!r}", FORMAT)
    return Item(place, context, tuple(choices), answer)


def split_items(items: Sequence[Item], split: Split) -> list[Item]:
    """One half of the items: `report` has one, every other split the other. Items of one context are kept together.

    The half depends on the items alone, not on their order in the file.
    """
    keys = [item.context or item.text for item in items]
    if len(set(keys)) == 1:  # an instruction that is the same everywhere tells no questions apart
        keys = [item.text for item in items]
    if len(set(keys)) < 2:
        raise UsageError(
            f"{items[0].place}: a single question cannot be split into search and report", "Give more items"
        )
    ordered = sorted(range(len(items)), key=lambda i: (_digest(keys[i]), _digest(items[i].text)))
    borders = [i for i in range(1, len(items)) if keys[ordered[i]] != keys[ordered[i - 1]]]
    middle = min(borders, key=lambda border: abs(border - len(items) / 2))
    return [items[i] for i in (ordered[middle:] if split == "report" else ordered[:middle])]


def take(items: Sequence[Item], count: int) -> list[Item]:
    """So many of the items at most, by chance that is the same every time; fewer are a part of more."""
    return sorted(items, key=lambda item: _digest(f"item {item.text}"))[:count]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def encode(item: Item, tokenizer: Any) -> EncodedItem:
    """The token ids of an item, as lm-evaluation-harness makes them.

    Spaces at the end of the context go to the choice. Context and choice are encoded together, and what is longer
    than the encoded context is the choice. An empty context is the token that texts begin with, or else end with.
    What is too long for the tokenizer's `model_max_length` loses its beginning.

    Raises:
        UsageError: a choice is no token of its own, or too long, or nothing can stand for an empty context.
    """
    pairs = [_encode_pair(item, DELIMITER + choice, tokenizer) for choice in item.choices]
    limit = tokenizer.model_max_length
    for choice, (context, continuation) in zip(item.choices, pairs, strict=True):
        if not context:
            raise UsageError(
                f"{item.place}: 'context' is nothing but spaces: {item.context!r}", "Leave it empty, or give one"
            )
        if not 0 < len(continuation) < limit:
            raise UsageError(
                f"{item.place}: choice {choice!r} is {len(continuation)} tokens of the model's, which reads {limit}",
                "Make it at least one token and shorter than that, or leave the item out",
            )
    rows = tuple(tuple((context + continuation)[-limit:]) for context, continuation in pairs)
    return EncodedItem(item, rows, tuple(len(continuation) for _, continuation in pairs))


def _encode_pair(item: Item, continuation: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if not item.context:
        if start is None:
            raise UsageError(
                f"{item.place}: 'context' is empty, and the tokenizer has no token that a text begins or ends with",
                "Give the item a context",
            )
        ids: list[int] = tokenizer.encode(continuation, add_special_tokens=False)
        return ([start], ids) if ids[:1] != [start] else (ids[:1], ids[1:])
    context = item.context.rstrip()
    continuation = item.context[len(context) :] + continuation
    together, before = (_encode_text(text, start, tokenizer) for text in (context + continuation, context))
    return before, together[len(before) :]


def _encode_text(text: str, start: int | None, tokenizer: Any) -> list[int]:
    """With the tokens that the tokenizer adds by itself, unless the text begins with them as it is."""
    begun = start is not None and text.startswith(tokenizer.decode(start))
    ids: list[int] = tokenizer.encode(text, **({"add_special_tokens": False} if begun else {}))
    return ids


def pack(items: Iterable[EncodedItem]) -> Iterator[list[EncodedItem]]:
    """Groups of items of similar length, each of at most 512 tokens with the padding, or of one item."""
    group: list[EncodedItem] = []
    for item in sorted(items, key=lambda item: (item.tokens, _digest(item.item.text))):
        rows = sum(len(member.rows) for member in group) + len(item.rows)
        if group and rows * item.tokens > BATCH_TOKENS:  # the latest is the longest
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _batch(items: Sequence[EncodedItem]) -> TokenBatch:
    rows = [row for item in items for row in item.rows]
    ids = torch.full((len(rows), max(map(len, rows))), PADDING, dtype=torch.int64)
    scored = torch.zeros((len(rows), ids.shape[1] - 1), dtype=torch.bool)
    for i, (row, count) in enumerate(zip(rows, (n for item in items for n in item.scored), strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        scored[i, len(row) - 1 - count : len(row) - 1] = True
    extra = {
        "choices": torch.tensor([len(item.rows) for item in items]),
        "answer": torch.tensor([item.item.answer for item in items]),
        "characters": torch.tensor([len(choice) for item in items for choice in item.item.choices]),
    }
    return TokenBatch(ids, scored, len(items), extra)


def choice_losses(candidate: Candidate) -> NDArray[np.float64]:
    """float64 (rows,): the negative log-likelihood of each choice in nats, summed over its tokens."""
    losses = candidate.losses().cpu().double().where(candidate.scored.cpu(), 0.0)
    total: NDArray[np.float64] = losses.sum(dim=1).numpy()
    return total


def by_item(candidate: Candidate, rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """One number a row as one array an item, which has a number for each of its choices."""
    return np.split(rows, np.cumsum(candidate.extra["choices"].numpy())[:-1])
