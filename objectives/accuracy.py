"""Accuracy on multiple-choice items."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from objectives.multiple_choice import by_item, choice_losses, token_batches
from searcher.contracts.objective import Candidate, Objective, Split, TokenBatch


class Accuracy(Objective):
    """Share of multiple-choice items for which the right choice is the likeliest.

    Zero-shot, and equal to what lm-evaluation-harness gives for the same items (`acc` and `acc_norm` of a
    `multiple_choice` task); its standard error is that of the mean over items. One half of the file is for the
    search, the other for the report.

    Args:
        file: JSON lines of `{"context": text, "choices": [text, …], "answer": index}`. Few-shot examples and
            instructions are a part of the context.
        metric: `acc` compares the log-likelihoods of the choices, `acc_norm` these divided by the choice's length in
            characters.
        items: how many are taken of each half, at most.
    """

    unit = "share"
    lower_is_better = False
    reads = "inputs"

    def __init__(
        self, file: str, metric: Literal["acc", "acc_norm"] = "acc", items: Annotated[int, Field(ge=2)] = 100
    ) -> None:
        self.file, self.metric, self.items_taken = file, metric, items

    def inputs(self, tokenizer: Any, split: Split) -> Sequence[TokenBatch]:
        """The items, in batches of similar length."""
        return token_batches(self.file, self.items_taken, tokenizer, split)

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """(items,): 1 where the right choice is the likeliest, else 0; NaN where the model gives no likelihoods."""
        losses = choice_losses(candidate)
        if self.metric == "acc_norm":
            losses = losses / candidate.extra["characters"].numpy()
        answers = candidate.extra["answer"].tolist()
        return np.array(
            [
                np.nan if np.isnan(choices).any() else float(choices.argmin() == answer)
                for choices, answer in zip(by_item(candidate, losses), answers, strict=True)
            ]
        )
