"""Statistics of the dense model that are means over windows, one window after another so that progress shows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from searcher.anatomy.work import Done, at_work
from searcher.contracts.plan import Unit
from searcher.replay.dense_statistics import measure_statistics
from searcher.replay.replay import Replay


def measure_means(
    replay: Replay, ids: Tensor, names: Sequence[str], units: Sequence[Unit], done: Done
) -> dict[str, NDArray[np.float64]]:
    """The means over all windows of the mean over each.

    Args:
        replay: the model, checked for the granularity of the units.
        ids: int64 (windows, tokens).
        names: of statistics that are such means: all of `searcher.contracts.statistics` that share a dense pass.
        units: whose.
        done: told how far it is.
    """
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for row in ids:
        with at_work():
            of_window = measure_statistics(replay, row[None].to(replay.model.device), names, units)
        for name, values in of_window.items():
            found[name].append(values)
        done(1 / len(ids))
    return {name: np.mean(values, axis=0) for name, values in found.items()}
