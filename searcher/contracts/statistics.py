"""What a strategy may want to know of the dense model before it searches: names, shapes and costs of statistics.

A strategy names the statistics it wants to see (`Strategy.statistics`); they are measured on the search windows by
`searcher.replay.dense_statistics` and handed over in `Space.statistics`, float64 all of them.
"""

from collections.abc import Sequence

from searcher.contracts.plan import Action, Part, PrunePlan, Unit
from searcher.contracts.trie import layer_forwards, plan_path
from searcher.errors import UsageError, did_you_mean

CHANGES = {
    "cosine": "E[cos(h, h')] of the states before and after the unit (ShortGPT, Men et al. 2024, arXiv:2403.03853)",
    "relative-l1": "E[|h' - h|_1 / |h|_1] (Siddiqui et al. 2024, arXiv:2407.16286)",
    "relative-l2": "E[|h' - h|_2 / |h|_2] (Siddiqui et al. 2024, arXiv:2407.16286)",
}
"""How much each unit changes the hidden states, means over tokens: (units,), in the order of `Space.units`."""

MAPS = {
    "state-cosines": "E[cos(h_i, h_j)] over tokens (LLM-Streamline, arXiv:2403.19135)",
    "state-angles": "E[arccos(cos(h_i, h_j)) / pi] at the last token of each window (Gromov et al., arXiv:2403.17887)",
}
"""How the states at all boundaries differ: (boundaries, boundaries).

The boundaries are those between blocks if the units are blocks: the states entering each block, and those leaving the
last. Else they are those between sublayers: before block 0, between attention and FFN of block 0, before block 1, …
"""

EFFECTS = {
    "logits": "E[|z - z'|_2] over tokens, of the logits with and without the unit",
    "taylor": "sum of |w dL/dw| over the unit's weights, L the mean loss (Shortened LLaMA, arXiv:2402.02834)",
    "magnitude": "sum of |w| over the unit's weights (Shortened LLaMA, arXiv:2402.02834)",
}
"""What each unit's weights or its removal mean for the output: (units,), in the order of `Space.units`."""

STATISTICS = CHANGES | MAPS | EFFECTS
"""Every statistic and what it is."""


def check_statistics(names: Sequence[str]) -> None:
    """Raises UsageError if there is no statistic of one of these names."""
    for name in names:
        if name not in STATISTICS:
            raise UsageError(
                f"The strategy asks for an unknown statistic '{name}'",
                f"{did_you_mean(name, STATISTICS)}There are {', '.join(STATISTICS)}",
            )


def shape_of(name: str, units: Sequence[Unit], num_blocks: int) -> tuple[int, ...]:
    """The shape of a statistic of these units; see `CHANGES`, `MAPS` and `EFFECTS`."""
    if name not in MAPS:
        return (len(units),)
    boundaries = num_blocks + 1 if _whole(units) else 2 * num_blocks + 1
    return (boundaries, boundaries)


def blocks_to_open(names: Sequence[str], units: Sequence[Unit], num_blocks: int) -> tuple[int, ...]:
    """The blocks of which the states between attention and FFN are needed, ascending."""
    if _whole(units):
        return ()
    if MAPS.keys() & set(names):
        return tuple(range(num_blocks))
    return tuple(sorted({unit.block for unit in units})) if CHANGES.keys() & set(names) else ()


def cost_of(
    names: Sequence[str], units: Sequence[Unit], num_blocks: int, weight: Sequence[float]
) -> tuple[float, float]:
    """What measuring these statistics takes per window.

    Args:
        names: the statistics, each measured once.
        units: whose.
        num_blocks: blocks of the model.
        weight: what each `Action` leaves of a block; see `searcher.contracts.cost.Prices`.

    Returns:
        Layer-forwards and output heads: one dense pass for all statistics but the last two, an attention for each block
        that is opened, a replay of every unit's removal for `logits`; for `taylor` a dense pass of its own, then each
        block (and once the head) forwards and backwards. `magnitude` is free.
    """
    forwards = len(blocks_to_open(names, units, num_blocks)) * weight[Action.NO_FFN]
    heads = 0.0
    if set(names) - {"taylor", "magnitude"}:
        forwards += num_blocks
    if "logits" in names:
        plans = [PrunePlan(), *(PrunePlan.of([unit]) for unit in units)]
        forwards += layer_forwards([plan_path(plan, num_blocks) for plan in plans], weight) - num_blocks
        heads += len(plans)
    if "taylor" in names:
        forwards += 4 * num_blocks  # a backward with gradients of weights takes two forwards
        heads += 2  # there it takes one: only the states need a gradient
    return forwards, heads


def _whole(units: Sequence[Unit]) -> bool:
    return all(unit.part is Part.BLOCK for unit in units)
