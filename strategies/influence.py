"""One-shot removal: the units of lowest influence."""

import math
from dataclasses import dataclass
from typing import Literal

from searcher.contracts.plan import PrunePlan, Unit
from searcher.contracts.scoreboard import Scoreboard
from searcher.contracts.space import Space
from searcher.contracts.strategy import Search, SearchStopped, Strategy

Metric = Literal["cosine", "relative-l1", "relative-l2", "loss", "logits", "taylor", "magnitude", "reverse"]


@dataclass(frozen=True)
class Influence(Strategy):
    """Rank the units once by their influence on the dense model, and remove those of the lowest.

    When to use it: it is the cheapest of all, one dense pass and one plan of each size, and so what any search must
    beat. It does not see that removing one unit changes what the others do.

    Source: by metric. cosine: BI = 1 - E[cos(h, h')] of the states before and after a unit (ShortGPT, Men et al. 2024,
    arXiv:2403.03853). relative-l1, relative-l2: E[|h' - h|_p / |h|_p] (Siddiqui et al. 2024, arXiv:2407.16286).
    loss: the objective without the unit; taylor: sum of |w dL/dw|; magnitude: sum of |w| over its weights (Shortened
    LLaMA, Kim et al. 2024, arXiv:2402.02834, which besides keeps the first four and the last two blocks: see --keep).
    logits: E[|z - z'|_2] of the logits with and without it. reverse: the deepest first, but the last block last
    (Reassessing Layer Pruning, Lu et al. 2024, arXiv:2411.15558).

    Args:
        metric: what influence is. loss measures one plan a unit; logits costs as much, taylor four dense passes, the
            others one or (magnitude, reverse) none.
    """

    metric: Metric = "cosine"

    @property
    def statistics(self) -> tuple[str, ...]:
        """What the metric is read from."""
        return () if self.metric in ("loss", "reverse") else (self.metric,)

    def search(self, space: Space) -> Search:
        """Where a limit comes first, a unit that has not been tried stands behind those that have been."""
        board = Scoreboard(space)
        try:
            if self.metric == "loss":
                yield from board.measure(space.extensions(PrunePlan()))
            yield from board.measure(self._plans(board))
        except SearchStopped:
            pass
        board.preferred = self._plans(board)
        influence = self._influence(board)
        told = {str(u): influence[u] if math.isfinite(influence[u]) else None for u in self._order(board)}
        return board.outcome({"metric": self.metric, "influence": told})

    def _plans(self, board: Scoreboard) -> tuple[PrunePlan, ...]:
        """The plan of each size, the full one first."""
        space, order = board.space, self._order(board)
        return tuple(space.filled(PrunePlan(), order, size) for size in reversed(space.sizes))

    def _order(self, board: Scoreboard) -> tuple[Unit, ...]:
        """The units, those of the lowest influence first; one that breaks the model after those not tried."""
        influence, units = self._influence(board), board.space.units
        tried = {unit for unit in units if self.metric == "loss" and PrunePlan.of([unit]) in board.scores}
        return tuple(sorted(units, key=lambda u: (influence[u], u in tried and math.isinf(influence[u]), u)))

    def _influence(self, board: Scoreboard) -> dict[Unit, float]:
        """Infinite for a unit that breaks the model or of which nothing is known."""
        space = board.space
        if self.metric == "loss":
            return {unit: board.scores.get(PrunePlan.of([unit]), math.inf) for unit in space.units}
        if self.metric == "reverse":
            deepest_first = sorted(sorted(space.units, reverse=True), key=lambda u: u.block == space.num_blocks - 1)
            return {unit: float(place) for place, unit in enumerate(deepest_first)}
        numbers = space.statistics[self.metric]
        influence = 1 - numbers if self.metric == "cosine" else numbers
        pairs = zip(space.units, influence.tolist(), strict=True)
        return {unit: value if math.isfinite(value) else math.inf for unit, value in pairs}
