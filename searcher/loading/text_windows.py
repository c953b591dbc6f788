"""Windows of several texts: each gives as many, and they take turns."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from searcher.errors import UsageError
from searcher.loading.text import Text, Texts
from searcher.loading.windows import Windows, cut_windows

Item = TypeVar("Item")


def shares(count: int, texts: int) -> list[int]:
    """How many of `count` windows each text gives: equally many, the first ones one more where that leaves a rest."""
    return [count // texts + (number < count % texts) for number in range(texts)]


def check_shares(count: int, texts: int, split: str, option: str, least: int = 1) -> None:
    """Refuse fewer windows than the texts need.

    Args:
        count: of all texts together.
        texts: how many give them.
        split: that they are cut from.
        option: by which their number is set.
        least: how many of each are needed.

    Raises:
        UsageError: some text would give fewer.
    """
    needed = least * texts
    if count < needed:
        raise UsageError(
            f"{texts} texts need {needed} {split} windows or more, {least} for each, but {option} is {count}",
            f"Set {option} to {needed} or more, or give fewer texts with --data",
        )


def cut_text_windows(
    texts: Texts,
    tokenizer: Any,
    *,
    tokens: int,
    count: int,
    split: str,
    option: str,
    seed: int | None,
    fewer: bool = False,
) -> Windows:
    """Cut the windows of a split, shared evenly over the texts.

    Each round takes one window of every text, in an order drawn with the seed, so that the first n windows are of all
    texts alike, and which of them give one more is chance: a stratified random sample, as racing needs it.

    Args:
        texts: one or several; of one, this is :func:`searcher.loading.windows.cut_windows`.
        tokenizer: of the model, from transformers.
        tokens: length of a window.
        count: how many windows in all.
        split: `search` or `report`.
        option: by which their number is set, for the error.
        seed: draws the windows at random; None takes them at equal distances in each text, the texts in their order.
        fewer: take as many as fit if a text is too short for its share.

    Raises:
        UsageError: a text is too short, or there are fewer windows than texts.
    """
    members = texts.members
    if len(members) == 1:
        return cut_windows(
            documents_of(members[0], split), tokenizer, tokens=tokens, count=count, split=split, seed=seed, fewer=fewer
        )
    check_shares(count, len(members), split, option)
    cut = [
        cut_windows(
            documents_of(text, split),
            tokenizer,
            tokens=tokens,
            count=share,
            split=split,
            seed=None if seed is None else (seed, number + 1),
            text=text.name,
            fewer=fewer,
        )
        for number, (text, share) in enumerate(zip(members, shares(count, len(members)), strict=True))
    ]
    return joined(cut, [len(documents_of(text, split)) for text in members], None if seed is None else (seed, 0))


def documents_of(text: Text, split: str) -> tuple[str, ...]:
    """The documents of one split: `search`, `heal` or `report`."""
    return {"search": text.search, "heal": text.heal, "report": text.report}[split]


def joined(cut: Sequence[Windows], documents: Sequence[int], seed: Sequence[int] | None = None) -> Windows:
    """The windows of several texts as one, taking turns; documents are numbered on from text to text.

    Args:
        cut: the windows of each text.
        documents: how many documents each text has in this split.
        seed: draws the order of the texts in each round; None keeps it.
    """
    starts = np.cumsum([0, *documents])
    order = take_turns([range(len(one.ids)) for one in cut], seed)
    ids = torch.stack([cut[text].ids[row] for text, row in order])
    found = [(cut[text].documents[row], int(starts[text])) for text, row in order]
    numbers = tuple(number if number < 0 else start + number for number, start in found)  # PACKED stays
    masks = [one.scored for one in cut if one.scored is not None]  # of all of them or of none
    scored = torch.stack([masks[text][row] for text, row in order]) if masks else None
    return Windows(ids, numbers, tuple(text for text, _ in order), scored)


def take_turns(lists: Sequence[Iterable[Item]], seed: Sequence[int] | None = None) -> list[tuple[int, Item]]:
    """The items of lists in rounds of one of each, until all are used up, each with the number of its list.

    Args:
        lists: of whatever lengths.
        seed: draws the order within each round; None keeps it.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    left = [list(items) for items in lists]
    found = []
    for place in range(max(map(len, left), default=0)):
        order = range(len(left)) if rng is None else rng.permutation(len(left)).tolist()
        found += [(number, left[number][place]) for number in order if place < len(left[number])]
    return found
