"""The gap between two ways to search, where the choice of search windows is chance too."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from results.intervals import LEVEL, Gap, make_gap, paired_differences
from searcher.contracts.objective import Objective
from searcher.runs.clusters import membership, standard_errors

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
    differences = np.array([paired_differences(objective, *pair) for pair in zip(chosen, others, strict=True)])
    mean, told = float(differences.mean()), len(differences) >= LEAST and bool(np.isfinite(differences).all())
    return make_gap(objective, mean, mean, half_width(differences, documents) if told else None)


def half_width(differences: NDArray[np.float64], documents: Sequence[int] | None) -> float | None:
    """Of the interval of the mean of float64 (choices, items); None where the spread of documents cannot be told."""
    choices, items = differences.shape
    between_choices = float(differences.mean(axis=1).var(ddof=1)) / choices
    errors, degrees = standard_errors(differences.mean(axis=0), documents)
    between_documents = float(errors) ** 2
    if not degrees:
        return None
    cells = (differences - differences.mean()) @ membership(documents, items) / differences.size
    both = float((cells**2).sum())
    variance = max(between_choices + between_documents - both, between_choices, between_documents)
    parts = between_choices**2 / (choices - 1) + between_documents**2 / degrees
    return float(stats.t.ppf((1 + LEVEL) / 2, variance**2 / parts)) * variance**0.5 if parts else 0.0
