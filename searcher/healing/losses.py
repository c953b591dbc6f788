"""What a healing that trains minimises: text, or distance from the dense model, or a weighted sum of these."""

import re
from dataclasses import dataclass
from typing import Literal

from searcher.replay.head_gradients import HeadLoss

PARTS = ("text", "kl", "hidden")
"""Names of the terms a loss may have."""
HiddenError = Literal["squared", "cosine"]
"""How far two hidden states are from one another; see :class:`Loss`."""

_TERM = re.compile(r"(?:(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\*?)?([a-z]+)")


@dataclass(frozen=True)
class Loss:
    """A weighted sum of losses, each a mean over tokens.

    Attributes:
        text: weight of the next-token loss, in nats.
        kl: weight of KL(dense || pruned) of next-token distributions, both softened by the temperature, times its
            square (Hinton et al. 2015, arXiv:1503.02531).
        hidden: weight of the distance from the dense model's hidden states after every block that stays.
        temperature: of `kl`.
        match: the distance of `hidden`: squared, relative to the squared norm of the dense state, so that a first token
            of huge norm counts no more than another; or one minus the cosine.
    """

    text: float = 0.0
    kl: float = 0.0
    hidden: float = 0.0
    temperature: float = 1.0
    match: HiddenError = "squared"

    @property
    def at_head(self) -> HeadLoss:
        """The part of it that needs the output head."""
        return HeadLoss(self.text, self.kl, self.temperature)

    @property
    def at_head_counts(self) -> bool:
        """Whether it needs the output head at all."""
        return bool(self.text or self.kl)

    @property
    def distils(self) -> bool:
        """Whether it needs the dense model's states."""
        return bool(self.kl or self.hidden)


def parse_loss(terms: str, temperature: float, match: HiddenError) -> Loss:
    """The loss of terms such as `kl`, `kl+0.5*text` or `0.5*text+2*hidden`.

    Raises:
        ValueError: a term is unknown, comes twice, or weighs nothing; or an option is of a term that is not there.
    """
    weights: dict[str, float] = {}
    for term in terms.replace(" ", "").split("+"):
        found = _TERM.fullmatch(term)
        name = found[2] if found else term
        if found is None or name not in PARTS:
            raise ValueError(f"loss '{terms}' has the term '{term}'; write {', '.join(PARTS)} or kl+0.5*text")
        if name in weights:
            raise ValueError(f"loss '{terms}' has the term '{name}' twice")
        weights[name] = float(found[1] or 1)
        if not 0 < weights[name] < float("inf"):
            raise ValueError(f"loss '{terms}' gives '{name}' the weight {found[1]}; give a number above 0")
    if temperature != 1 and "kl" not in weights:
        raise ValueError(f"temperature={temperature:g} is of the loss 'kl', but loss={terms}")
    if match != "squared" and "hidden" not in weights:
        raise ValueError(f"match={match} is of the loss 'hidden', but loss={terms}")
    return Loss(**weights, temperature=temperature, match=match)
