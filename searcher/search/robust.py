"""Scores that hold over several texts: what a plan costs on the text where it costs most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.objective import Objective
from searcher.errors import UsageError
from searcher.runs.config import RunConfig


@dataclass(frozen=True, eq=False)
class WorstText:
    """Scores plans by their worst text.

    On each text a plan has a rise: its score there less the dense model's on the same windows, both on the additive
    scale (means over items, turned so that lower is better; nats per token for a perplexity). The score is the largest
    rise over the texts. A rise and no plain loss is taken, since texts differ in how hard they are for any model.

    Regret, the distance from the best plan of a text, is not offered: what is best there is only known by searching,
    and with the dense model as the fixed reference it is the rise.

    Attributes:
        texts: int64 (search windows,), the number of the text of each.
        dense: by objective, float64 (search windows,): the dense model's numbers.
    """

    texts: NDArray[np.int64]
    dense: Mapping[str, NDArray[np.float64]]

    def score(self, label: str, objective: Objective, rows: NDArray[np.float64], windows: Sequence[int]) -> float:
        """The largest rise over the texts that these windows are of.

        Args:
            label: of the objective, which reads windows.
            objective: turns numbers into scores.
            rows: float64 (search windows,), the plan's numbers, NaN where not measured.
            windows: those that count, all measured.

        Returns:
            Infinity for a plan that breaks the model on any text.
        """
        return float(max(self.rises(label, objective, rows, windows).values()))

    def rises(
        self, label: str, objective: Objective, rows: NDArray[np.float64], windows: Sequence[int]
    ) -> dict[int, float]:
        """By text, of those that these windows are of: the plan's score less the dense model's."""
        asked = np.asarray(windows, dtype=np.int64)
        found = {}
        for text in np.unique(self.texts[asked]).tolist():
            own = asked[self.texts[asked] == text]
            found[text] = _score(objective, rows[own]) - _score(objective, self.dense[label][own])
        return {text: rise if np.isfinite(rise) else np.inf for text, rise in found.items()}


def _score(objective: Objective, rows: NDArray[np.float64]) -> float:
    return objective.turned(float(np.mean(objective.items(rows))))


def check_robust(config: RunConfig, objectives: Mapping[str, Objective]) -> None:
    """Refuse a score over texts where nothing that is searched for reads them.

    Raises:
        UsageError: no objective that is searched for does.
    """
    searched = [label for label in config.searched if not config.weight or label in config.weight]
    if config.robust != "mean" and not any(objectives[label].reads == "windows" for label in searched):
        raise UsageError(
            f"--robust {config.robust} is for what is measured on the texts, but {', '.join(searched)} is not",
            "Search for an objective that reads windows, such as perplexity, or leave --robust out",
        )
