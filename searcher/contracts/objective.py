"""The contract of an objective: a number measured for a candidate, the model replayed under a plan.

    class WorstToken(Objective):
        '''The largest loss of any token.'''

        unit = "nats"

        def measure(self, candidate):
            return candidate.losses().amax(dim=1).double().cpu().numpy()   # one number a row

The evaluator (`searcher.evaluation.evaluator`) calls `prepare` once per batch of tokens with the dense model, then
`measure` once per plan and batch. All objectives of a run see the same candidate, so they share its forward pass and
losses. Evaluators work in parallel, each with a copy of the objective that was made before any `prepare`; those in
other processes are made anew from the options. So `measure` may rely on the options and on `prepare`, and on
nothing else.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.amounts import Amounts
from searcher.contracts.plan import PrunePlan

if TYPE_CHECKING:  # keeps `searcher list objectives` free of torch
    from torch import Tensor

Number = TypeVar("Number", float, NDArray[np.float64])
Reads = Literal["windows", "inputs", "plan"]
Split = Literal[
    "search",
    "report",
    "screen",
    "healed-search",
    "healed-report",
    "healed-search-1/2",
    "healed-search-1/4",
    "healed-search-1/8",
    "healed-search-1/16",
    "healed-search-1/32",
    "healed-search-1/64",
]
"""`screen`: the windows of `search`, measured by the cheap loss of `objectives/screening.py`; `healed-…`: those of
`search` or `report`, each plan after healings that are fitted to it alone, with that share of their steps."""
SHORTENED: dict[Split, float] = {
    "healed-search-1/2": 1 / 2,
    "healed-search-1/4": 1 / 4,
    "healed-search-1/8": 1 / 8,
    "healed-search-1/16": 1 / 16,
    "healed-search-1/32": 1 / 32,
    "healed-search-1/64": 1 / 64,
}
"""The share of its steps that a healing is given before plans are measured on this split; in all others, all."""
HEALED: dict[Split, Split] = {
    "healed-search": "search",
    "healed-report": "report",
    **dict.fromkeys(SHORTENED, "search"),
}
"""The split whose windows they are."""
Divergence = Literal["kl", "js"]
"""Kullback-Leibler divergence of a plan from the dense model, or Jensen-Shannon divergence between the two."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token sequences of equal length that an objective brings itself; they are always run all together.

    Objectives that bring the same batches share them: they are replayed once.

    Attributes:
        ids: int64 (rows, tokens).
        scored: bool (rows, tokens - 1), which next-token losses count; position t is the prediction of token t + 1.
        items: how many numbers `measure` gives for this batch; None for one a row.
        extra: what the objective wants to find again in `candidate.extra`, on the CPU.
    """

    ids: "Tensor"
    scored: "Tensor"
    items: int | None = None
    extra: Mapping[str, "Tensor"] = field(default_factory=dict)


class Reference(Protocol):
    """What a divergence needs to know of the dense model on a batch; of use to `divergence` alone."""

    @property
    def more_heads(self) -> int:
        """Output heads that `divergence` runs for each row."""
        ...

    def select(self, rows: Sequence[int]) -> "Reference":
        """The same for some rows of the batch."""
        ...

    def divergence(self, head: Any, hidden: "Tensor", ids: "Tensor", losses: "Callable[[], Tensor]") -> "Tensor":
        """float32 (rows, tokens - 1), in nats.

        Args:
            head: of the model, of :mod:`searcher.replay.head`.
            hidden: (rows, tokens, hidden size) after the last block, under a plan.
            ids: int64 (rows, tokens).
            losses: gives the losses (rows, tokens - 1) under the plan.
        """
        ...


class Candidate(Protocol):
    """The model replayed under a plan on one batch of token sequences.

    What costs an output head (`losses`, `logits`) runs when first asked for and is metered; `losses` is kept.

    Attributes:
        plan: the plan; the dense model has the empty one.
        split: `search` or `report`.
        batch: name of the token batch, unique within a run, the key for what `prepare` remembers; `""` without one.
        rows: which rows of that batch are here; all of them, unless a strategy asked for some windows only.
        ids: int64 (rows, tokens), on the model's device.
        scored: bool (rows, tokens - 1), which losses count.
        extra: what the objective put into the batch, if it brought it itself.
        config: the transformers config of the dense model.
        tokenizer: the model's, from transformers.
        amounts: what each part of the dense model takes: `parameters`, `weights-bytes`, `kv-cache`, `flops`.
    """

    @property
    def plan(self) -> PrunePlan: ...  # noqa: D102
    @property
    def split(self) -> Split: ...  # noqa: D102
    @property
    def batch(self) -> str: ...  # noqa: D102
    @property
    def rows(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def ids(self) -> "Tensor": ...  # noqa: D102
    @property
    def scored(self) -> "Tensor": ...  # noqa: D102
    @property
    def extra(self) -> Mapping[str, "Tensor"]: ...  # noqa: D102
    @property
    def config(self) -> Any: ...  # noqa: D102
    @property
    def tokenizer(self) -> Any: ...  # noqa: D102
    @property
    def amounts(self) -> Mapping[str, Amounts]: ...  # noqa: D102

    def hidden(self) -> "Tensor":
        """(rows, tokens, hidden size): hidden states after the last block, before the final norm."""
        ...

    def losses(self) -> "Tensor":
        """float32 (rows, tokens - 1): negative log-likelihood of each next token in nats, 0 where not scored."""
        ...

    def losses_among(self, vocabulary: "Tensor") -> "Tensor":
        """The same with all other tokens left out of the softmax; cheap if the vocabulary is small.

        Args:
            vocabulary: int64 (tokens of the vocabulary,), ascending, with every token of `ids` among them.
        """
        ...

    def logits(self) -> "Iterator[Tensor]":
        """One row at a time: (tokens, vocabulary) logits in the model's dtype, scaled and capped as it does."""
        ...

    def likely(self, count: int) -> "Tensor":
        """int64 (rows, tokens, count): the likeliest next tokens, or all if there are not so many."""
        ...

    def reference(self, kind: Divergence) -> Reference:
        """What `divergence` needs to know of the dense model; for `prepare`, to be kept by `batch`."""
        ...

    def divergence(self, reference: Reference) -> "Tensor":
        """float32 (rows, tokens - 1): how far the next-token distributions are from the dense model's, in nats.

        Exact. Kullback-Leibler divergence takes no head but that of `losses`, unless the model caps its logits or has
        a head of its own kind: then two more, as Jensen-Shannon divergence always does.

        Args:
            reference: of the dense model on this batch, all of its rows.
        """
        ...

    def left(self, amount: str) -> float:
        """What the plan leaves of one of the `amounts`, with the modules that healing puts in.

        Where a plan is healed as a whole, and not yet, those that it will get are counted.
        """
        ...

    def model(self) -> AbstractContextManager[Any]:
        """The transformers model itself, pruned for as long as a `with` statement lasts; for generation, say.

        The tokens that go through its blocks and its head are metered, and nothing is shared between plans: each plan
        is charged what was run on the dense model.
        """
        ...


class Objective(ABC):
    """A measure of a candidate. Options are the arguments of `__init__`, typed and with defaults.

    `measure` gives one number a row; the objective's value is `finish(mean(items(rows)))`. Keep all three steps
    apart: intervals and comparisons are made from the items.

    The first line of the class docstring is shown by `searcher list objectives`.
    """

    unit: ClassVar[str]
    """What the value is counted in, for tables; a `share` is from 0 to 1."""
    lower_is_better: ClassVar[bool] = True
    reads: ClassVar[Reads] = "windows"
    """`windows`: the run's text windows, a row each. `inputs`: own token batches. `plan`: nothing is replayed; what is
    measured follows from the plan, or from running `candidate.model()`."""
    says_size: ClassVar[bool] = False
    """Whether the value says how much of the model is left, so that the number of removed units need not."""
    within: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """The least and the largest value there can be: no interval goes beyond."""
    repeatable: ClassVar[bool] = True
    """Whether measuring again gives the same number; times do not."""

    def inputs(self, tokenizer: Any, split: Split) -> Sequence[TokenBatch]:
        """The objective's own token batches, if it `reads` inputs; they are replayed and metered like the text.

        Args:
            tokenizer: the model's transformers tokenizer.
            split: plans are chosen on `search` and judged on `report`; the two must not share an item.
        """
        return ()

    def depends_on(self) -> Mapping[str, str]:
        """What else decides the numbers, by name, each with a version or digest: of data that is fetched, say.

        Options, files that options name, the source and its imports are known without. A run whose objective depends on
        something else by now is not gone on with.
        """
        return {}

    def numbers(self, split: Split) -> int:
        """How many numbers `measure` gives, if the objective `reads` the plan."""
        return 1

    def prepare(self, dense: Candidate) -> None:  # noqa: B027 - most objectives have nothing to prepare
        """See the dense model on one batch, before any plan is measured on it (for targets; keyed by `batch`).

        A search is charged for that once, though every evaluator prepares for itself. On a CPU, `losses`, `likely` and
        `reference` of the dense model are kept on disk, so that it need not be run for them again.
        """

    @abstractmethod
    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """float64: one number for each row of the batch, or as many as the batch, or `numbers`, says.

        Infinity means that the plan breaks the model, and so does NaN where the losses or hidden states are not finite
        either; NaN for a sound model stops the run, which names the objective and the plan.
        """

    def items(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 (items,): one number per independent item from the rows of all batches; a row is an item."""
        return rows

    def weights(self, rows: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """float64 (items,): how much each item counts, for a share of verdicts that do not count alike; else None."""
        return None

    def turned(self, number: Number) -> Number:
        """A number, or an array of them, turned so that lower is better; or turned back."""
        return number if self.lower_is_better else -number

    def finish(self, mean: float) -> float:
        """The value from the mean over items; must be increasing, so that it can be applied to interval ends."""
        return mean

    def value(self, rows: NDArray[np.float64]) -> float:
        """The objective's value from the rows of all batches."""
        with np.errstate(all="ignore"):  # overflow gives inf, which is the right answer
            return float(self.finish(float(np.mean(self.items(rows)))))
