"""Standard errors of means over windows, of which some come from one document."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PACKED = -1
"""The document of a window put together from several: such a window is a cluster of its own."""


def standard_errors(
    items: NDArray[np.float64], documents: Sequence[int] | None = None
) -> tuple[NDArray[np.float64], float]:
    """Standard errors of means over windows, and the degrees of freedom of their Student t distribution.

    Windows of one document are not independent: with `documents` the spread is taken between documents, by the
    bias-reduced cluster-robust variance CR2 and Satterthwaite's degrees of freedom (Bell & McCaffrey 2002, Survey
    Methodology 28), which are G - 1 for G documents of equal length. Without, or with a window from each, both are the
    usual ones.

    Args:
        items: float64 (…, windows).
        documents: the document of each window; None if all windows are independent.

    Returns:
        float64 (…,), NaN where an item is not finite; and the degrees, 0 with a single cluster, of which no error can
        be told (all NaN).
    """
    windows = items.shape[-1]
    member = membership(documents, windows)
    if member.shape[1] < 2:
        return np.full(items.shape[:-1], np.nan), 0.0
    finite = np.asarray(np.isfinite(items).all(axis=-1))
    known = np.where(finite[..., None], items, 0.0)
    totals = (known - known.mean(axis=-1, keepdims=True)) @ member / windows
    shares = member.sum(axis=0) / windows
    errors = np.sqrt(np.sum(totals**2 / (1 - shares), axis=-1))
    return np.where(finite, errors, np.nan), _degrees_of_freedom(shares)


def membership(documents: Sequence[int] | None, windows: int) -> NDArray[np.float64]:
    """float64 (windows, clusters): 1 where a window is of a document; without any, each is alone."""
    clusters = np.arange(windows) if documents is None else _numbered(documents)
    member: NDArray[np.float64] = np.eye(int(clusters.max(initial=-1)) + 1)[clusters]
    return member


def count_clusters(documents: Sequence[int]) -> int:
    """How many documents the windows come from, of which every packed window counts as one."""
    return len({number for number in documents if number != PACKED}) + sum(number == PACKED for number in documents)


def spread(documents: Sequence[int], count: int) -> list[int]:
    """The places of so many windows, or of all if there are fewer: of each document as many, and far apart in it.

    Args:
        documents: the document of each window.
        count: how many.

    Returns:
        Ascending; the same every time.
    """
    clusters = _numbered(documents)
    members = [np.flatnonzero(clusters == number).tolist() for number in range(int(clusters.max(initial=-1)) + 1)]
    shares, left = [0] * len(members), min(count, len(clusters))
    while left:
        room = [number for number, share in enumerate(shares) if share < len(members[number])]
        for number in _evenly(room, min(left, len(room))):
            shares[number] += 1
            left -= 1
    return sorted(place for places, share in zip(members, shares, strict=True) for place in _evenly(places, share))


def _evenly(items: Sequence[int], count: int) -> list[int]:
    """So many of the items, at equal distances."""
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def _numbered(documents: Sequence[int]) -> NDArray[np.int64]:
    """The cluster of each window, from 0 on."""
    keys = [("window", i) if number == PACKED else ("document", number) for i, number in enumerate(documents)]
    order = {key: position for position, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys], dtype=np.int64)


def _degrees_of_freedom(shares: NDArray[np.float64]) -> float:
    weights = shares**2 / (1 - shares)
    return float(1 / (np.sum(shares**2) + np.sum(weights) ** 2 - np.sum(weights**2)))
