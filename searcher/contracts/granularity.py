"""Which units plans that were written by hand remove."""

from collections.abc import Iterable

from searcher.contracts.plan import Granularity, Part, PrunePlan

_ALONE = {Part.BLOCK: Granularity.BLOCK, Part.ATTENTION: Granularity.ATTENTION, Part.FFN: Granularity.FFN}


def granularity_of(plans: Iterable[PrunePlan]) -> Granularity:
    """The one whose units the plans remove; `sublayer` where they are mixed."""
    parts = {unit.part for plan in plans for unit in plan.removed} or {Part.BLOCK}
    return _ALONE[parts.pop()] if len(parts) == 1 else Granularity.SUBLAYER
