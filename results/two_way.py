"""The gap between two ways to search, where the choice of search windows is chance too."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from results.intervals import LEVEL, Gap, is_exponential
from searcher.contracts.objective import Objective
from searcher.runs.clusters import standard_errors

LEAST = 3
"""Choices of search windows from which on an interval is told; with two it covers too little."""


def procedure_gap(
    objective: Objective,
    chosen: NDArray[np.float64],
    others: NDArray[np.float64],
    documents: Sequence[int] | None = None,
) -> Gap:
    """How far plans of one procedure are from those of another, with both choices of windows taken as random.

    Every row is one choice of search windows, on which both procedures have chosen a plan; all plans are measured on
    the same report items. The variance of the mean difference is that between choices, plus that between documents,
    less that of their cells, which both hold (Cameron, Gelbach & Miller 2011, J. Business & Economic Statistics 29,
    eq. 2.11), and no less than either; the degrees of freedom are Satterthwaite's, of the two that are added. From
    three choices on it covers 94 to 99% in `tests/results/test_two_way.py`; Student t with the fewer degrees of the two
    covers up to 100%, and is wider by half with three.

    Args:
        objective: whose values they are.
        chosen: float64 (choices, rows), numbers of the one procedure's plans on the report split.
        others: the same of the other's.
        documents: the document of each row, `PACKED` for several; None if all are independent.

    Returns:
        Without an interval where there are fewer than three choices, or a plan that breaks the model.
    """
    differences = np.array([objective.items(a) - objective.items(b) for a, b in zip(chosen, others, strict=True)])
    mean, relative = float(differences.mean()), is_exponential(objective)

    def shown(difference: float) -> float:
        return float(np.expm1(difference)) if relative else difference

    half = half_width(differences, documents) if len(differences) >= LEAST and np.isfinite(differences).all() else None
    if half is None:
        return Gap(shown(mean), relative=relative)
    return Gap(shown(mean), shown(mean - half), shown(mean + half), relative)


def half_width(differences: NDArray[np.float64], documents: Sequence[int] | None) -> float | None:
    """Of the interval of the mean of float64 (choices, items); None where the spread of documents cannot be told."""
    choices, items = differences.shape
    between_choices = float(differences.mean(axis=1).var(ddof=1)) / choices
    errors, degrees = standard_errors(differences.mean(axis=0), documents)
    between_documents = float(errors) ** 2
    if not degrees:
        return None
    member = _members(documents, items)
    cells = (differences - differences.mean()) @ member / differences.size
    both = float((cells**2).sum())
    variance = max(between_choices + between_documents - both, between_choices, between_documents)
    parts = between_choices**2 / (choices - 1) + between_documents**2 / degrees
    return float(stats.t.ppf((1 + LEVEL) / 2, variance**2 / parts)) * variance**0.5 if parts else 0.0


def _members(documents: Sequence[int] | None, items: int) -> NDArray[np.float64]:
    """float64 (items, documents): 1 where an item is of the document."""
    numbers = range(items) if documents is None else documents
    names = [("item", i) if number < 0 else ("document", number) for i, number in enumerate(numbers)]
    order = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.eye(len(order))[[order[name] for name in names]]
