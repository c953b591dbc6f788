"""Windows: token sequences of equal length, cut from the documents of a split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from searcher.errors import UsageError
from searcher.loading.answers import Spans, covered
from searcher.runs.clusters import PACKED


@dataclass(frozen=True, eq=False)
class Windows:
    """Token sequences of equal length.

    Attributes:
        ids: int64 (windows, tokens), with BOS first where the tokenizer adds one.
        documents: the number of the document each window was cut from, `PACKED` where from several.
        texts: the number of the text each is of, where there are several; empty if all are of one.
        scored: bool (windows, tokens), which tokens are of answers; None where it was not asked for.
    """

    ids: Tensor
    documents: tuple[int, ...]
    texts: tuple[int, ...] = ()
    scored: Tensor | None = None


@dataclass(frozen=True)
class _Tokens:
    """Tokens of a document, and which of them are of answers; nothing of that where it was not asked for."""

    document: int
    ids: list[int]
    scored: list[bool]

    def pieces(self, length: int) -> "list[_Tokens]":
        """As many of this length as there are."""
        starts = range(0, len(self.ids) - length + 1, length)
        return [self.part(start, start + length) for start in starts]

    def part(self, start: int, end: int | None = None) -> "_Tokens":
        return _Tokens(self.document, self.ids[start:end], self.scored[start:end])

    def teaches(self, first: int) -> bool:
        """Whether one of the tokens from this one on is of an answer, where that was asked for."""
        return not self.scored or any(self.scored[first:])


def cut_windows(
    documents: Sequence[str],
    tokenizer: Any,
    *,
    tokens: int,
    count: int,
    split: str,
    seed: int | Sequence[int] | None,
    fewer: bool = False,
    text: str = "",
    answers: Sequence[Spans] | None = None,
) -> Windows:
    """Cut windows that do not overlap, and take some of them.

    Windows come from inside single documents as far as those suffice; then also from the leftovers and the short
    documents, joined in their order.

    Args:
        documents: texts of one split.
        tokenizer: of the model, from transformers.
        tokens: length of a window, at least 2.
        count: how many windows.
        split: name of the split, for the error.
        seed: draws the windows at random, in random order; None takes them at equal distances.
        fewer: take as many as fit if fewer than `count` do, but at least one.
        text: name of the text, for the error, if there are several.
        answers: of each document, where its answers are; windows without any are then left out.

    Raises:
        UsageError: the text is too short, with how many windows fit; or `tokens` or `count` is too small.
    """
    _check(tokens, count, split)
    bos = bos_token(tokenizer)
    length = tokens - len(bos)
    whole, packed = (
        [piece for piece in pieces if piece.teaches(0 if bos else 1)]  # nothing predicts the first token of all
        for pieces in _cut_documents(documents, tokenizer, length, answers)
    )
    if fewer:
        count = max(1, min(count, len(whole) + len(packed)))
    if len(whole) + len(packed) < count:
        raise UsageError(
            f"The {split} split{f' of {text}' if text else ''} is too short for {count} windows of {tokens} tokens: "
            f"{len(whole) + len(packed)} fit",
            "Lower --heal-windows or --window-tokens, or give a longer text with --data or --heal-data"
            if split == "heal"
            else "Lower --windows, --report-windows or --window-tokens, or give a longer text with --data",
        )
    missing = max(0, count - len(whole))
    taken = [whole[i] for i in _choose(len(whole), count - missing, seed)]
    taken += [packed[i] for i in _choose(len(packed), missing, seed)]
    if seed is not None:  # the first n of them are then a random sample of all, as racing needs it
        taken = [taken[i] for i in np.random.default_rng(seed).permutation(count)]
    ids = torch.tensor([bos + piece.ids for piece in taken], dtype=torch.int64)
    scored = None if answers is None else torch.tensor([[False] * len(bos) + piece.scored for piece in taken])
    return Windows(ids, tuple(piece.document for piece in taken), scored=scored)


def _check(tokens: int, count: int, split: str) -> None:
    if tokens < 2:
        raise UsageError(
            f"Windows of {tokens} tokens hold nothing to predict ({split} split)", "Set --window-tokens to 2 or more"
        )
    if count < 1:
        raise UsageError(f"{count} windows of the {split} split measure nothing", "Ask for 1 window or more")


def check_vocabulary(ids: Tensor, model: Any, tokenizer: Any) -> None:
    """Refuse tokens that the model has no embedding of.

    Args:
        ids: int64, of whatever shape.
        model: a transformers model.
        tokenizer: what made them.

    Raises:
        UsageError: naming the first such token.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = ids[ids >= rows]
    if len(beyond):
        token = int(beyond[0])
        text = tokenizer.convert_ids_to_tokens(token)
        raise UsageError(
            f"The text holds token {token} ({text!r}), but the model embeds {rows} tokens",
            "Save the model with its own tokenizer, or enlarge it with model.resize_token_embeddings(len(tokenizer))",
        )


def bos_token(tokenizer: Any) -> list[int]:
    """The beginning-of-sequence token, if the tokenizer puts one before a text by itself; else nothing."""
    ids = tokenizer("a")["input_ids"]
    return [ids[0]] if tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id] else []


def _cut_documents(
    documents: Sequence[str], tokenizer: Any, length: int, answers: Sequence[Spans] | None
) -> tuple[list[_Tokens], list[_Tokens]]:
    """Pieces from inside single documents, and of what is left over."""
    whole: list[_Tokens] = []
    leftovers = _Tokens(PACKED, [], [])
    for number, document in enumerate(documents):
        found = tokenizer(
            document, add_special_tokens=False, verbose=False, **({"return_offsets_mapping": True} if answers else {})
        )
        scored = covered(found["offset_mapping"], answers[number], len(document)).tolist() if answers else []
        tokens = _Tokens(number, found["input_ids"], scored)
        pieces = tokens.pieces(length)
        whole += pieces
        rest = tokens.part(len(pieces) * length)
        leftovers.ids.extend(rest.ids)
        leftovers.scored.extend(rest.scored)
    return whole, leftovers.pieces(length)


def _choose(available: int, count: int, seed: int | Sequence[int] | None) -> list[int]:
    """Ascending positions: at equal distances, or drawn without replacement."""
    if seed is None:
        return [(2 * i + 1) * available // (2 * count) for i in range(count)]
    drawn = np.random.default_rng(seed).choice(available, size=count, replace=False)
    return sorted(map(int, drawn))
