"""Successive halving: the best plans of a search healed in rounds, many for few steps, the better half for more.

Source: Karnin, Koren and Somekh 2013, "Almost optimal exploration in multi-armed bandits", algorithm 1, with healing
steps as the budget, as Jamieson and Talwalkar 2016, arXiv:1502.07943, use it for training. Unlike there, every round
heals from the pruned model anew, so that what a round measures is a function of the plan and of its share of the steps.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from searcher.contracts.cost import Cost
from searcher.contracts.objective import SHORTENED, Split
from searcher.contracts.plan import DENSE, PrunePlan
from searcher.errors import UsageError
from searcher.healing.contract import Healing
from searcher.healing.healer import make_healing
from searcher.runs.config import RunConfig

Lists = Mapping[int, Sequence[PrunePlan]]
"""Plans of each size, the best first."""
Price = Callable[[PrunePlan, float], Cost | None]
"""What healing a plan with a share of the steps, and measuring it healed, is charged; None where that is not known."""


@dataclass(frozen=True)
class Round:
    """A round of healing.

    Attributes:
        split: on which its plans are measured.
        share: of the healing's steps.
    """

    split: Split
    share: float


def make_rounds(count: int) -> tuple[Round, ...]:
    """So many rounds, each with twice the steps of the one before; the last has all of them."""
    early = [Round(split, share) for split, share in SHORTENED.items()][: count - 1]
    return (*reversed(early), Round("healed-search", 1.0))


def half(count: int) -> int:
    """How many of so many plans of a size go on: the half, rounded up."""
    return (count + 1) // 2


def in_turn(lists: Lists) -> Iterator[PrunePlan]:
    """The first plan of every size from the largest down, then the second ones, and so on."""
    return (lists[size][place] for size, place in _turns(lists))


def first_of(lists: Lists, count: int) -> dict[int, Sequence[PrunePlan]]:
    """The lists with so many of their plans, in turn."""
    counts = Counter(size for size, _ in islice(_turns(lists), count))
    return {size: plans[: counts[size]] for size, plans in lists.items()}


def _turns(lists: Lists) -> Iterator[tuple[int, int]]:
    """Sizes, and places in their lists."""
    longest = max(map(len, lists.values()), default=0)
    return ((s, place) for place in range(longest) for s in sorted(lists, reverse=True) if place < len(lists[s]))


def cost_of(lists: Lists, rounds: Sequence[Round], price: Price) -> Cost:
    """The most that healing these plans, and the control, in these rounds is charged.

    Which plans go on is not known before; those that cost most are counted.
    """
    first, *later = rounds
    total = price(DENSE, rounds[-1].share) or Cost()
    for size, place in _turns(lists):
        begins = first if len(lists[size]) > 1 else rounds[-1]  # a single plan goes on anyway
        total = total + (price(lists[size][place], begins.share) or Cost())
    for plans in lists.values():
        left = len(plans)
        for one in later if left > 1 else ():
            left = half(left)
            if left > 1 or one is rounds[-1]:
                total = total + _most([price(plan, one.share) or Cost() for plan in plans], left)
    return total


def _most(costs: Sequence[Cost], count: int) -> Cost:
    """No less than any so many of these cost together."""
    return Cost(
        count * max(cost.evaluations for cost in costs),
        count * max(cost.layer_forwards for cost in costs),
        count * max(cost.heads for cost in costs),
    )


def check_rounds(config: RunConfig) -> None:
    """Refuse a second healing that fits no shortlist, and rounds that there is no room for; needs no model.

    Raises:
        UsageError: with what would work.
    """
    _check_final(config)
    spec = config.healed_by
    if spec is None or config.heal_rounds == 1:
        return
    asked, healing = f"--heal-rounds {config.heal_rounds}", make_healing(spec)
    if healing.scope != "plan":
        raise UsageError(
            f"{asked} is for healings that are fitted to a whole plan, and {spec} is part of every score",
            "Leave it out, or add one with steps for the best plans, such as --heal-final lora:steps=200",
        )
    if healing.shortened(make_rounds(config.heal_rounds)[0].share) is None:
        raise UsageError(
            f"{asked} begins with shorter healings, and {spec} cannot be shortened: it has no steps",
            "Leave it out, or take a healing with steps, such as lora:steps=200",
        )
    least = 2 ** (config.heal_rounds - 2) + 1
    if config.heal_top < least:
        raise UsageError(
            f"{asked} with --heal-top {config.heal_top} leaves a round with a single plan, which cannot be halved",
            f"Raise --heal-top to {least} or more, or {_fewer(_most_rounds(config.heal_top))}",
        )
    _check_steps(asked, spec, healing, config.heal_rounds)


def _check_final(config: RunConfig) -> None:
    """Refuse a second healing where the first is no part of every score, or the second would be."""
    if config.heal is None or config.heal_final is None:
        return
    if make_healing(config.heal).scope == "plan":
        raise UsageError(
            f"--heal {config.heal} heals the best plans already, and --heal-final {config.heal_final} would do so too",
            "Leave one of them out, or take a --heal that is part of every score, such as bias",
        )
    if make_healing(config.heal_final).scope != "plan":
        raise UsageError(
            f"--heal-final {config.heal_final} is not fitted to a whole plan, but to its units or gaps",
            "Take one that is, such as lora:steps=200, or linear-folded",
        )


def _check_steps(asked: str, spec: str, healing: Healing, rounds: int) -> None:
    steps, parts = steps_of(healing), 2 ** (rounds - 1)
    if steps is not None and steps < parts:
        raise UsageError(
            f"{asked} begins with 1/{parts} of the steps of {spec}, which is less than one",
            f"Raise steps to {parts} or more, or {_fewer(max(steps, 1).bit_length())}",
        )


def _most_rounds(top: int) -> int:
    """In how many rounds so many plans can be halved, down to one."""
    return 1 + (top - 1).bit_length()


def _fewer(rounds: int) -> str:
    return "leave --heal-rounds out" if rounds == 1 else f"lower --heal-rounds to {rounds}"


def steps_of(healing: Healing, share: float = 1.0) -> int | None:
    """The steps of a healing with this share of them; None where it does not say how many it has."""
    steps = getattr(healing if share == 1 else healing.shortened(share), "steps", None)
    return steps if isinstance(steps, int) else None
