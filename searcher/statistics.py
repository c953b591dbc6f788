"""What a dense pass shows of a model's units: how much each changes the hidden states.

A strategy names the statistics it wants to see (`Strategy.statistics`); they are measured on the search windows and
handed over in `Space.statistics`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searcher.errors import UsageError, did_you_mean
from searcher.plan import Action, Part, Unit
from searcher.replay import Replay

PerToken = Callable[[Tensor, Tensor], Tensor]
"""From the states before and after a unit, float32 (tokens, hidden size) each, to a number per token."""


def _cosine(before: Tensor, after: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(before, after, dim=-1)


def _relative(order: int) -> PerToken:
    return lambda before, after: (after - before).norm(order, dim=-1) / before.norm(order, dim=-1)


OF_UNITS: dict[str, PerToken] = {"cosine": _cosine, "relative-l1": _relative(1), "relative-l2": _relative(2)}
"""Means over tokens, float64 (units,), in the order of `Space.units`: E[cos(h, h')] (ShortGPT, arXiv:2403.03853) and
E[|h' - h|_p / |h|_p] (Siddiqui et al. 2024, arXiv:2407.16286), with h before the unit and h' after it."""

BLOCK_COSINES = "block-cosines"
"""float64 (blocks + 1, blocks + 1): E[cos(h_i, h_j)] of the states entering blocks i and j (the last: leaving the last
block), the map behind contiguous removal (LLM-Streamline, arXiv:2403.19135; Gromov et al., arXiv:2403.17887)."""

NAMES = (*OF_UNITS, BLOCK_COSINES)


def check_statistics(names: Sequence[str]) -> None:
    """Raises UsageError if there is no statistic of one of these names."""
    for name in names:
        if name not in NAMES:
            raise UsageError(
                f"The strategy asks for an unknown statistic '{name}'",
                f"{did_you_mean(name, NAMES)}There are {', '.join(NAMES)}",
            )


@torch.inference_mode()
def measure_statistics(
    replay: Replay, ids: Tensor, names: Sequence[str], units: Sequence[Unit]
) -> dict[str, NDArray[np.float64]]:
    """Measure statistics of the dense model.

    Args:
        replay: the model, checked for the granularity of the units.
        ids: int64 (windows, tokens); run one by one, so that one window's states are held at a time.
        names: see `OF_UNITS` and `BLOCK_COSINES`.
        units: whose change is measured.
    """
    sums = {name: np.zeros(len(units)) for name in names if name in OF_UNITS}
    cosines = np.zeros((replay.num_blocks + 1, replay.num_blocks + 1))
    for row in ids:
        states = _states(replay, row[None])
        for i, unit in enumerate(units if sums else ()):
            before, after = _around(replay, states, unit)
            for name, total in sums.items():
                total[i] += OF_UNITS[name](before, after).double().mean().item()
        if BLOCK_COSINES in names:
            directions = torch.nn.functional.normalize(torch.cat(states).float(), dim=-1).flatten(1)  # (L + 1, T * d)
            cosines += (directions @ directions.T).double().cpu().numpy() / len(row)
    found = {name: total / len(ids) for name, total in sums.items()}
    return found | ({BLOCK_COSINES: cosines / len(ids)} if BLOCK_COSINES in names else {})


def layer_forwards_of(names: Sequence[str], units: Sequence[Unit], num_blocks: int, weight: Sequence[float]) -> float:
    """What measuring these statistics costs per window: the dense pass, and a part of a block for each sublayer."""
    if not names:
        return 0.0
    sublayers = sum(unit.part is not Part.BLOCK for unit in units) if set(names) & set(OF_UNITS) else 0
    return num_blocks + sublayers * weight[Action.NO_FFN]


def _states(replay: Replay, ids: Tensor) -> list[Tensor]:
    """The states entering each block, and those leaving the last: (1, tokens, hidden size) each."""
    states = [replay.embed(ids)]
    for block in range(replay.num_blocks):
        states.append(replay.run_block(states[-1], block, Action.KEEP))
    return states


def _around(replay: Replay, states: list[Tensor], unit: Unit) -> tuple[Tensor, Tensor]:
    """float32 (tokens, hidden size): the residual stream before and after what the unit adds."""
    before, after = states[unit.block], states[unit.block + 1]
    if unit.part is not Part.BLOCK:
        between = replay.run_block(before, unit.block, Action.NO_FFN)
        before, after = (before, between) if unit.part is Part.ATTENTION else (between, after)
    return before[0].float(), after[0].float()
