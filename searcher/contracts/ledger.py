"""The ledger of a search: what it has been charged, held against its limits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from searcher.contracts.cost import Cost
from searcher.contracts.plan import DENSE, PrunePlan
from searcher.contracts.tariff import Tariff


@dataclass(frozen=True)
class Limits:
    """Where a search must end; None means never.

    Attributes:
        max_evaluations: plans measured on all search windows, or what costs as much.
        max_cost: layer-forward equivalents per 1,000 tokens.
    """

    max_evaluations: float | None = None
    max_cost: float | None = None


Charge = Literal["plans", "screening", "preparing", "statistics", "healing", "rounds", "shortlist"]
"""What a search is charged for: plans measured, plans screened, objectives' look at the dense model, statistics of it,
healing before the first plan, and healing of the best ones, in short rounds and in full."""


@dataclass
class Ledger:
    """Charges a search for what it asks: each distinct plan and window once, in the order of asking.

    It does not matter what was run to answer, now or before a restart; so decisions based on the ledger are the
    same in every repetition.

    Attributes:
        kept_back: what will be needed after the search, and which the search may not spend.
    """

    tariff: Tariff
    limits: Limits
    parts: dict[Charge, Cost] = field(default_factory=dict)
    kept_back: Cost = field(default_factory=Cost)
    _charged_windows: dict[tuple[PrunePlan, bool], set[int]] = field(default_factory=dict)

    def copy(self) -> "Ledger":
        """Another with the same charges, to play with."""
        paid = {key: set(windows) for key, windows in self._charged_windows.items()}
        return replace(self, parts=dict(self.parts), _charged_windows=paid)

    @property
    def charged(self) -> Cost:
        """All that has been charged."""
        return sum(self.parts.values(), Cost())

    def cost_of(self, plans: Iterable[PrunePlan], windows: Iterable[int] | None = None, screen: bool = False) -> Cost:
        """What asking for these plans, or for their screening, would be charged now."""
        wanted = set(range(self.tariff.windows) if windows is None else windows)
        missing: dict[tuple[frozenset[int], bool], list[PrunePlan]] = {}
        for plan in dict.fromkeys(plans):
            done = self._charged_windows.get((plan, screen))
            key = (frozenset(wanted - (done or set())), done is None)
            missing.setdefault(key, []).append(plan)
        groups = missing.items()
        costs = (self.tariff.ask(group, len(new), own, screen) for (new, own), group in groups if new or own)
        return sum(costs, Cost())

    def charge(self, plans: Iterable[PrunePlan], windows: Iterable[int] | None = None, screen: bool = False) -> None:
        """Charge for an ask that is being answered."""
        plans = tuple(plans)
        self.charge_cost("screening" if screen else "plans", self.cost_of(plans, windows, screen))
        wanted = set(range(self.tariff.windows) if windows is None else windows)
        for plan in plans:
            self._charged_windows.setdefault((plan, screen), set()).update(wanted)

    def charge_work(self, charge: Charge, layer_forwards: float, heads: float) -> None:
        """Charge for work that measures no plan, in blocks and output heads over one window."""
        self.charge_cost(charge, self.tariff.worth(Cost(layer_forwards=layer_forwards, heads=heads)))

    def charge_statistics(self, layer_forwards: float, heads: float = 0.0) -> None:
        """Charge for statistics of the dense model, in layer-forwards and output heads per window."""
        windows = self.tariff.windows
        self.charge_work("statistics", layer_forwards * windows, heads * windows)

    def charge_cost(self, charge: Charge, cost: Cost) -> None:
        """Charge so much."""
        self.parts[charge] = self.parts.get(charge, Cost()) + cost

    def fits(
        self,
        plans: Sequence[PrunePlan],
        spare: int = 0,
        windows: Iterable[int] | None = None,
        then: Sequence[Sequence[PrunePlan]] = (),
    ) -> bool:
        """Whether these plans, and then `spare` more at the price of the dense model, stay inside the limits.

        Args:
            plans: asked for together.
            spare: see :meth:`limit_passed_by`.
            windows: of the plans; by default all.
            then: further batches of plans, no plan twice, each of them asked for by itself.
        """
        return self.limit_passed_by(plans, spare, windows, then=then) is None

    def limit_passed_by(
        self,
        plans: Sequence[PrunePlan],
        spare: int = 0,
        windows: Iterable[int] | None = None,
        screen: bool = False,
        then: Sequence[Sequence[PrunePlan]] = (),
    ) -> str | None:
        """The limit that measuring (or screening) these plans and `spare` dense ones would pass, None if they fit."""
        wanted = self.cost_of(plans, windows, screen)
        after = sum(map(self.cost_of, then), self.charged + self.kept_back + wanted)
        for _ in range(spare):
            after = after + self.tariff.ask([DENSE], self.tariff.windows, own=True)
        return self.limit_of(after)

    def limit_of(self, cost: Cost, share: float = 1.0) -> str | None:
        """The limit of which such a cost is more than this share."""
        limits = self.limits
        if limits.max_evaluations is not None and cost.evaluations > share * limits.max_evaluations + 1e-9:
            return "evaluation limit"
        if limits.max_cost is not None and self.tariff.total(cost) > share * limits.max_cost * (1 + 1e-9):
            return "cost limit"
        return None

    def paid(self, plan: PrunePlan, windows: Iterable[int] | None = None, screen: bool = False) -> bool:
        """Whether the plan, or its screening, has been charged for on these windows, or on all."""
        wanted = range(self.tariff.windows) if windows is None else windows
        key = (plan, screen)
        return key in self._charged_windows and self._charged_windows[key].issuperset(wanted)
