"""What an ask costs: the trie of its plans, and the heads of each."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from searcher.contracts.cost import Cost, Prices
from searcher.contracts.plan import DENSE, PrunePlan
from searcher.contracts.trie import layer_forwards, plan_path


@dataclass(frozen=True)
class Tariff:
    """What an ask costs when nothing of it has been measured: the batch's trie, and the heads of each plan.

    Attributes:
        num_blocks: blocks of the model.
        prices: relative FLOPs.
        windows: search windows.
        window_tokens: tokens of a window.
        rows_per_window: 1, or 0 if no objective reads the windows.
        own_rows: tokens of the objectives' own inputs, in windows (each plan is replayed on them once).
        heads_per_window: output heads that the objectives need for a plan on one window.
        own_heads: output heads for a plan on the own inputs, in windows.
        screening_heads: output heads for a plan on one window when it is only screened.
        apart_per_window: layer-forwards that objectives run for a plan on one window through the model itself, where
            nothing is shared; each plan is charged what that took for the dense model.
        own_apart: the same for a plan, whatever the windows.
    """

    num_blocks: int
    prices: Prices
    windows: int
    window_tokens: int
    rows_per_window: float
    own_rows: float
    heads_per_window: float
    own_heads: float
    screening_heads: float = 0.0
    apart_per_window: float = 0.0
    own_apart: float = 0.0

    def ask(self, plans: Iterable[PrunePlan], windows: int, own: bool, screen: bool = False) -> Cost:
        """The cost of these distinct plans on this many windows, and on the own inputs or not.

        Screening runs the windows alone, with little of a head.
        """
        paths = [plan_path(plan, self.num_blocks) for plan in plans]
        shared = layer_forwards(paths, self.prices.weight)
        if screen:
            return self.worth(Cost(0.0, shared * windows, len(paths) * windows * self.screening_heads))
        rows = windows * self.rows_per_window + (self.own_rows if own else 0.0)
        heads = windows * self.heads_per_window + (self.own_heads if own else 0.0)
        apart = windows * self.apart_per_window + (self.own_apart if own else 0.0)
        evaluations = len(paths) * windows / self.windows
        return Cost(evaluations, shared * rows + len(paths) * apart, len(paths) * heads)

    def worth(self, cost: Cost) -> Cost:
        """The same work, counted in evaluations too: as many as measuring the dense model would cost as much.

        Where measuring a plan runs nothing, one is a pass over the windows; where nothing has a price, it is no plan's.
        """
        one = self.total(self.ask([DENSE], self.windows, own=True))
        one = one or self.total(Cost(layer_forwards=float(self.num_blocks * self.windows)))
        return replace(cost, evaluations=self.total(cost) / one if one else 0.0)

    def total(self, cost: Cost) -> float:
        """Layer-forward equivalents per 1,000 tokens."""
        return (cost.layer_forwards + cost.heads * self.prices.head) * self.window_tokens / 1000
