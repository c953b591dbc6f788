"""Windows of the heal split: most to fit a healing on, the last ones held out to choose by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from searcher.errors import UsageError
from searcher.loading.answers import Spans
from searcher.loading.text import Text, Texts
from searcher.loading.text_windows import check_shares, joined, shares
from searcher.loading.windows import Windows, cut_windows

HELD_OUT = 0.2
"""Share of the windows that nothing is fitted on."""


@dataclass(frozen=True, eq=False)
class HealText:
    """What to heal with and on; plain data, which can be sent to other processes.

    Attributes:
        spec: name and options of the healing, such as `lora:steps=200`.
        fit: int64 (windows, tokens) of the heal split to fit on.
        held_out: int64 (windows, tokens) of it to choose by.
        documents: of each held-out window, the document it was cut from; empty if each is of its own.
        fit_scored: bool (windows, tokens), which tokens of `fit` are learnt from; None for all.
        held_out_scored: the same of `held_out`.
    """

    spec: str
    fit: Tensor
    held_out: Tensor
    documents: tuple[int, ...] = ()
    fit_scored: Tensor | None = None
    held_out_scored: Tensor | None = None

    @property
    def rows(self) -> int:
        """Windows in all."""
        return len(self.fit) + len(self.held_out)


def cut_heal_text(
    documents: Sequence[str], tokenizer: Any, *, tokens: int, count: int, fewer: bool, spec: str
) -> HealText:
    """Cut the windows of a healing, at equal distances in the heal split.

    Args:
        documents: of the heal split.
        tokenizer: of the model.
        tokens: length of a window.
        count: how many windows, those held out among them.
        fewer: take what there is if the text holds fewer.
        spec: what they are for.

    Raises:
        UsageError: the text is too short.
    """
    fit, held_out = _cut(documents, tokenizer, tokens, count, fewer)
    return HealText(spec, fit.ids, held_out.ids, held_out.documents)


def cut_heal_texts(
    texts: Texts, tokenizer: Any, *, tokens: int, count: int, fewer: bool, spec: str, answers: bool = False
) -> HealText:
    """The same of the texts to heal on: each gives as many windows, a fifth of them held out, and they take turns.

    With `answers`, only what chats answer is learnt from, and windows without any are left out.

    Raises:
        UsageError: a text is too short, or there are fewer than two windows for each; or its answers are not known.
    """
    members = texts.healed_on
    spans = [_answers(text) if answers else None for text in members]
    if len(members) == 1:
        fit, held_out = _cut(members[0].heal, tokenizer, tokens, count, fewer, answers=spans[0])
        return HealText(spec, fit.ids, held_out.ids, held_out.documents, fit.scored, held_out.scored)
    check_shares(count, len(members), "heal", "--heal-windows", least=2)
    cut = [
        _cut(text.heal, tokenizer, tokens, share, fewer, text.name, own)
        for text, share, own in zip(members, shares(count, len(members)), spans, strict=True)
    ]
    documents = [len(text.heal) for text in members]
    fit, held_out = (joined(windows, documents) for windows in zip(*cut, strict=True))
    return HealText(spec, fit.ids, held_out.ids, held_out.documents, fit.scored, held_out.scored)


def _answers(text: Text) -> list[Spans]:
    """Of each document to heal on, where its answers are."""
    if text.answers is None or not all(document in text.answers for document in text.heal):
        why = "holds no chats" if text.answers is None else "has chats so long that they were cut into pieces"
        raise UsageError(
            f"Heal data '{text.name}' {why}, so that answers cannot be told from questions",
            "Give a file of many chats ('messages'), or leave --heal-answers out",
        )
    return [text.answers[document] for document in text.heal]


def _cut(
    documents: Sequence[str],
    tokenizer: Any,
    tokens: int,
    count: int,
    fewer: bool,
    text: str = "",
    answers: Sequence[Spans] | None = None,
) -> tuple[Windows, Windows]:
    """The windows of a text to fit on, and those held out."""
    cut = cut_windows(
        documents,
        tokenizer,
        tokens=tokens,
        count=count,
        split="heal",
        seed=None,
        fewer=fewer,
        text=text,
        answers=answers,
    )
    if len(cut.ids) < 2:
        raise UsageError(
            f"{len(cut.ids)} window of the heal split{f' of {text}' if text else ''} is too little to fit on and to "
            "hold out",
            "Raise --heal-windows, lower --window-tokens, or give a longer text with --data",
        )
    place = _boundary(cut.documents)
    fit, held_out = slice(None, place), slice(place, None)
    first, last = (
        Windows(cut.ids[part], cut.documents[part], scored=None if cut.scored is None else cut.scored[part])
        for part in (fit, held_out)
    )
    return first, last


def _boundary(documents: Sequence[int]) -> int:
    """Where the held-out windows begin: between two documents if there is such a place near their share."""
    count = len(documents)
    wanted = min(max(1, round((1 - HELD_OUT) * count)), count - 1)
    near = range(count // 2 + 1, count - wanted // 10)
    between = [position for position in near if documents[position] != documents[position - 1]]
    return min(between, key=lambda position: abs(position - wanted), default=wanted)
