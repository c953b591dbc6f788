"""Stability: whether a plan leaves the dense model's verdicts as they were, weighted by its confidence."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from objectives.multiple_choice import by_item, choice_losses, token_batches
from searcher.contracts.objective import Candidate, Objective, Split, TokenBatch

LARGEST = 1e300
"""Stands for deviations that are too large for a number; those have all the weight anyway."""


class Stability(Objective):
    """Weighted share of multiple-choice items that are still right, or still wrong (LLM-Streamline, Eq. 5 and 6).

    With the perplexities of an item's choices under the dense model, std is their standard deviation, and e^std the
    item's weight: a verdict counts more where the dense model tells the choices apart. A choice's perplexity is that of
    its tokens after the context, and the verdict is right where the right choice has the lowest.

    Perplexities of choices differ by hundreds, and then a single item has all the weight: of 100 items of PIQA on
    SmolLM2-135M, one has, so that every plan that leaves its verdict scores 1, with the interval of one item. With
    `scale=loss` std is that of the log-perplexities, in nats (OpenCompass, too, calls these PPL); there, the 100 items
    weigh like 48 equal ones.

    LLM-Streamline: Chen et al. 2024, arXiv:2403.19135.

    Args:
        file: JSON lines of `{"context": text, "choices": [text, …], "answer": index}`, as for `accuracy`.
        items: how many are taken of each half of the file, at most; one half is for the search, one for the report.
        scale: what std is taken of: `perplexity`, the formula, or its logarithm, `loss`.
    """

    unit = "share"
    lower_is_better = False
    reads = "inputs"

    def __init__(
        self,
        file: str,
        items: Annotated[int, Field(ge=2)] = 100,
        scale: Literal["perplexity", "loss"] = "perplexity",
    ) -> None:
        self.file, self.items_taken, self.scale = file, items, scale
        self._dense: dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]] = {}

    def inputs(self, tokenizer: Any, split: Split) -> Sequence[TokenBatch]:
        """The items, in batches of similar length."""
        return token_batches(self.file, self.items_taken, tokenizer, split)

    def prepare(self, dense: Candidate) -> None:
        """Remember what the dense model says."""
        with np.errstate(all="ignore"):  # what is too large to square is large enough
            scaled = [np.exp(losses) if self.scale == "perplexity" else losses for losses in _mean_losses(dense)]
            deviations = [choices.std(ddof=1) for choices in scaled]
        deviation = np.nan_to_num(deviations, nan=LARGEST, posinf=LARGEST).clip(max=LARGEST)
        self._dense[dense.batch] = deviation, _right(dense)

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """(items,): 1 + std, with a minus sign where the verdict has changed; NaN without likelihoods."""
        deviation, right = self._dense[candidate.batch]
        signed = np.where(_right(candidate) == right, 1 + deviation, -1 - deviation)
        broken = [bool(np.isnan(losses).any()) for losses in _mean_losses(candidate)]
        rows: NDArray[np.float64] = np.where(broken, np.nan, signed)
        return rows

    def items(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """(items,): numbers whose mean is the stability, and whose variance is that of a ratio, linearised.

        From the signed weights of all batches.
        """
        weights = self.weights(rows)
        unchanged = (rows > 0).astype(np.float64)
        stability = (weights * unchanged).sum() / weights.sum()
        spread = len(rows) * weights * (unchanged - stability) / weights.sum()
        items: NDArray[np.float64] = stability + spread
        return items

    def weights(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """(items,): e^std, divided by the largest, since it may be too large."""
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            weights: NDArray[np.float64] = np.exp(np.abs(rows) - np.abs(rows).max())
        return weights


def _mean_losses(candidate: Candidate) -> list[NDArray[np.float64]]:
    """For each item, the log-perplexities of its choices."""
    return by_item(candidate, choice_losses(candidate) / candidate.scored.sum(dim=1).cpu().numpy())


def _right(candidate: Candidate) -> NDArray[np.bool_]:
    """(items,): whether the right choice has the lowest perplexity."""
    answers = candidate.extra["answer"].tolist()
    losses = _mean_losses(candidate)
    return np.array([choices.argmin() == answer for choices, answer in zip(losses, answers, strict=True)])
