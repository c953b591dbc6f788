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

BY_WINDOW = {
    "gate-gradients": "dL_w/dg_i at g = 1, L_w the mean loss of window w, g_i what the unit's share of the states is "
    "multiplied by (masks of Kwon et al. 2022, arXiv:2204.09656, here on whole units)",
}
"""What is wanted of every search window by itself: (windows, units), units in the order of `Space.units`.

A unit's share is what it adds to the hidden states h: a gated block gives h + g (block(h) - h). Nats per token.
"""

STATISTICS = CHANGES | MAPS | EFFECTS | BY_WINDOW
"""Every statistic and what it is."""

OWN_PASS = {"taylor", "magnitude", "gate-gradients"}
"""Those that are not measured on the states of one common dense pass."""

NEED_PLAIN = {"taylor", "magnitude"}
"""Those that look at the weights themselves, and not only at states: they need weights that are not quantised."""


def check_statistics(names: Sequence[str]) -> None:
    """Raises UsageError if there is no statistic of one of these names."""
    for name in names:
        if name not in STATISTICS:
            raise UsageError(
                f"The strategy asks for an unknown statistic '{name}'",
                f"{did_you_mean(name, STATISTICS)}There are {', '.join(STATISTICS)}",
            )


def shape_of(name: str, units: Sequence[Unit], num_blocks: int, num_windows: int) -> tuple[int, ...]:
    """The shape of a statistic of these units on so many windows; see `CHANGES`, `MAPS`, `EFFECTS` and `BY_WINDOW`."""
    if name in BY_WINDOW:
        return (num_windows, len(units))
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
        Layer-forwards and output heads: one dense pass for all statistics of `CHANGES` and `MAPS` and for `logits`, an
        attention for each block that is opened, a replay of every unit's removal for `logits`; for `taylor` and for
        `gate-gradients` a dense pass of its own, then blocks (and once the head) forwards and backwards. `magnitude` is
        free.
    """
    forwards = len(blocks_to_open(names, units, num_blocks)) * weight[Action.NO_FFN]
    heads = 0.0
    if set(names) - OWN_PASS:
        forwards += num_blocks
    if "logits" in names:
        plans = [PrunePlan(), *(PrunePlan.of([unit]) for unit in units)]
        forwards += layer_forwards([plan_path(plan, num_blocks) for plan in plans], weight) - num_blocks
        heads += len(plans)
    if "taylor" in names:
        forwards += 4 * num_blocks  # a backward with gradients of weights takes two forwards
        heads += 2  # there it takes one: only the states need a gradient
    if "gate-gradients" in names:
        forwards += num_blocks + _there_and_back(units, num_blocks, weight)
        heads += 2
    return forwards, heads


def _there_and_back(units: Sequence[Unit], num_blocks: int, weight: Sequence[float]) -> float:
    """Layer-forwards that it takes to run blocks again with a graph, and back, from the last down to the lowest unit's.

    A backward by the states alone takes what the forward took: one product for each product with a weight. (Products of
    two states, those of attention scores, take two; at the lengths of search windows that is a few percent.)
    """
    apart = {unit.block for unit in units if unit.part is not Part.BLOCK}
    lowest = min(unit.block for unit in units)
    halves = weight[Action.NO_FFN] + weight[Action.NO_ATTENTION]
    return 2 * sum(halves if block in apart else weight[Action.KEEP] for block in range(lowest, num_blocks))


def _whole(units: Sequence[Unit]) -> bool:
    return all(unit.part is Part.BLOCK for unit in units)
