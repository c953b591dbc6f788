"""The contract of a search strategy: a generator that asks about plans and is told their scores.

    class OneByOne(Strategy):
        def search(self, space):
            plan = PrunePlan()
            for unit in space.units[: space.sizes[-1]]:
                plan = plan.remove(unit)
                scores = yield Ask((plan,))      # the runner measures, records and answers
            return Outcome((plan,))

The runner (`searcher.commands.run`) drives the generator; nothing else does. A strategy sees plans and numbers only. It
must be a function of its options, `space.seed` and the scores so far: then the outcome does not depend on how the
plans are measured, and an interrupted search is resumed by replaying it against the journal.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.plan import PrunePlan
from searcher.contracts.space import Space


@dataclass(frozen=True)
class Ask:
    """Plans to measure, on some of the search windows or (None) on all. Asking again costs nothing.

    With `screen` they are measured by the cheap screening loss instead, which only ranks them; see
    `searcher.contracts.racing`.
    """

    plans: tuple[PrunePlan, ...]
    windows: tuple[int, ...] | None = None
    screen: bool = False


@dataclass(frozen=True)
class Scores:
    """The answer to an :class:`Ask`, in the order asked; lower is better whatever the objective's own direction.

    Attributes:
        plans: the plans asked about.
        values: float64 (plans, goals), the objectives that are searched for in the order of the run, each on its
            additive scale: the mean over its items, nats per token for perplexity; or the weighted sum that the user
            asked for, alone. A plan of the full size that misses a bound, on the windows asked about, is charged for
            it. A plan that breaks the model has `inf`; NaN stands for "not measured" and comes only with
            :class:`SearchStopped`.
        per_window: float64 (plans, goals, search windows), NaN where not run or not measured by window.
        charges: float64 (plans, bounds, search windows): what each bound on something measured by window adds to the
            first goal; a row whose mean is positive is part of the two above. None where there is no such bound.
    """

    plans: tuple[PrunePlan, ...]
    values: NDArray[np.float64]
    per_window: NDArray[np.float64]
    charges: NDArray[np.float64] | None = None

    @property
    def first(self) -> NDArray[np.float64]:
        """float64 (plans,): the first goal, the one that a strategy searches for unless it can do with several."""
        return self.values[:, 0]

    def measured(self) -> dict[PrunePlan, float]:
        """The first goal of each plan that was measured."""
        pairs = zip(self.plans, self.first.tolist(), strict=True)
        return {plan: score for plan, score in pairs if not np.isnan(score)}


@dataclass(frozen=True)
class Outcome:
    """What a search ends with.

    Attributes:
        plans: the plans the strategy stands for, those of the full size first, of equal size the best first. The first
            of each size asked for is measured by the runner if it has not been; the chosen plan of a size is the best
            measured one, ties in this order.
        notes: what the strategy has learnt, as JSON values (for example Shapley values with standard errors). The lines
            of `notes["summary"]`, if there are any, are shown to the user below the table of plans.
    """

    plans: tuple[PrunePlan, ...]
    notes: dict[str, Any] = field(default_factory=dict)


class SearchStopped(Exception):  # noqa: N818 - not an error: a limit is near
    """Thrown into a strategy at its `yield` when the limit is near: answer by returning an :class:`Outcome`.

    The outcome should hold a plan of the full size, a partial one completed by what has been learnt; the cost of
    measuring one such plan has been kept back. A strategy that does not catch this ends with the best plan measured.

    Attributes:
        reason: which limit, for the record.
        scores: the answer to the last ask as far as it was measured, NaN elsewhere.
    """

    def __init__(self, reason: str, scores: Scores) -> None:
        super().__init__(reason)
        self.reason = reason
        self.scores = scores


Search = Generator[Ask, Scores, Outcome]
"""A search under way."""


class Strategy(ABC):
    """A way to search. Options are the arguments of `__init__`, typed and with defaults (a frozen dataclass is best).

    The class docstring says what it does, when to use it, and its source (paper and equation).
    """

    races: ClassVar[bool] = False
    """Whether the strategy asks through `searcher.contracts.racing`, so that `space.racing` changes what it does."""
    starts: ClassVar[bool] = False
    """Whether the strategy begins at `space.start` where that is given."""
    fresh: ClassVar[bool] = False
    """Whether the strategy sees most plans on a few windows, others each time: by default it then has many windows."""
    searches_by: ClassVar[str | None] = None
    """The objective by which the strategy searches where the loss or the perplexity of the text is asked for."""

    @property
    def statistics(self) -> tuple[str, ...]:
        """Statistics of the dense model to be measured before the search, and charged to it; may be a class variable.

        They are handed over in `space.statistics`; `searcher.contracts.statistics` lists them.
        """
        return ()

    @abstractmethod
    def search(self, space: Space) -> Search:
        """Yield :class:`Ask`, receive :class:`Scores`, return an :class:`Outcome`. Called once per run."""


def order_by_score(plans: Sequence[PrunePlan], scores: Mapping[PrunePlan, float]) -> tuple[PrunePlan, ...]:
    """The plans, best first; ties by plan, so that nothing depends on the order of asking."""
    return tuple(sorted(plans, key=lambda plan: (scores[plan], plan)))
