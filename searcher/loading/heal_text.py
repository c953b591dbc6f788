"""Windows of the heal split: most to fit a healing on, the last ones held out to choose by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from searcher.errors import UsageError
from searcher.loading.text import Texts
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
    """

    spec: str
    fit: Tensor
    held_out: Tensor
    documents: tuple[int, ...] = ()

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


def cut_heal_texts(texts: Texts, tokenizer: Any, *, tokens: int, count: int, fewer: bool, spec: str) -> HealText:
    """The same of the texts to heal on: each gives as many windows, a fifth of them held out, and they take turns.

    Raises:
        UsageError: a text is too short, or there are fewer than two windows for each.
    """
    members = texts.healed_on
    if len(members) == 1:
        return cut_heal_text(members[0].heal, tokenizer, tokens=tokens, count=count, fewer=fewer, spec=spec)
    check_shares(count, len(members), "heal", "--heal-windows", least=2)
    cut = [
        _cut(text.heal, tokenizer, tokens, share, fewer, text.name)
        for text, share in zip(members, shares(count, len(members)), strict=True)
    ]
    documents = [len(text.heal) for text in members]
    fit, held_out = (joined(windows, documents) for windows in zip(*cut, strict=True))
    return HealText(spec, fit.ids, held_out.ids, held_out.documents)


def _cut(
    documents: Sequence[str], tokenizer: Any, tokens: int, count: int, fewer: bool, text: str = ""
) -> tuple[Windows, Windows]:
    """The windows of a text to fit on, and those held out."""
    cut = cut_windows(documents, tokenizer, tokens=tokens, count=count, split="heal", seed=None, fewer=fewer, text=text)
    if len(cut.ids) < 2:
        raise UsageError(
            f"{len(cut.ids)} window of the heal split{f' of {text}' if text else ''} is too little to fit on and to "
            "hold out",
            "Raise --heal-windows, lower --window-tokens, or give a longer text with --data",
        )
    place = _boundary(cut.documents)
    return Windows(cut.ids[:place], cut.documents[:place]), Windows(cut.ids[place:], cut.documents[place:])


def _boundary(documents: Sequence[int]) -> int:
    """Where the held-out windows begin: between two documents if there is such a place near their share."""
    count = len(documents)
    wanted = min(max(1, round((1 - HELD_OUT) * count)), count - 1)
    near = range(count // 2 + 1, count - wanted // 10)
    between = [position for position in near if documents[position] != documents[position - 1]]
    return min(between, key=lambda position: abs(position - wanted), default=wanted)
