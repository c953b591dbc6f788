"""What rounding explains of a gap on the search windows, which no chance of the text enters.

The gap is exact for the model as it ran. In bfloat16 that is a model of its own: every product is rounded, and two
plans may change places in float32. So a plan is called better only by more than rounding explains.

The figures below were measured on SmolLM2-135M-Instruct (Q4_1 dequantised) on a CPU, with plans that remove 4, 8 or 15
blocks, on windows of 128 tokens: bfloat16 (14 plans) and float16 (8) against float32 on 32 windows, float32 (6) against
float64 on 8, where products are also summed in the dtype itself; right answers of 13 plans to 120 items in bfloat16.
Errors of gaps between such plans were beyond the bound for 4% of choices of 8 windows, all of them of one plan with an
odd window. The bound is not for plans that nearly destroy the model: three that are 3 to 6 nats worse than others were
off by up to 19 unit roundoffs on 32 windows, much less than they are worse by.
"""

import numpy as np
from numpy.typing import NDArray

from results.intervals import is_exponential, paired_differences
from results.shares import are_verdicts
from searcher.contracts.objective import Objective

ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff: the largest relative error of a single rounding."""
ERRORS = {"float32": (2.6, 9.4), "float16": (0.6, 1.6), "bfloat16": (0.6, 1.6)}
"""Root mean squares of what rounding adds to a plan's loss, in unit roundoffs: the same on every window, and on each
window by itself."""
FLIPPED = 0.01
"""Share of multiple-choice items that rounding in bfloat16 turns over; in proportion to the unit roundoff elsewhere."""
TIMES = 3
"""Root mean squares of a gap that are taken for rounding."""


def rounding_bound(dtype: str, windows: int) -> float:
    """Up to which size a gap between the mean losses of two plans may be rounding, in nats per token.

    Args:
        dtype: in which the model ran.
        windows: over which the losses are means.
    """
    of_plan, of_window = ERRORS[dtype]
    return float(TIMES * ROUNDOFF[dtype] * np.sqrt(2 * (of_plan**2 + of_window**2 / windows)))


def is_rounding(objective: Objective, dtype: str, plan: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether rounding explains by how much a plan differs from another on the search windows.

    Losses and divergences, all in nats, have the bound of :func:`rounding_bound`; other values the same one relative to
    the larger of both. Of items that are right or wrong a few are turned over, at least one. What says how much is left
    of the model is not rounded.

    Args:
        objective: whose values differ.
        dtype: in which the model ran.
        plan: float64 (rows,), its numbers for the plan on the search windows.
        other: the same for the plan it is compared with.
    """
    difference = abs(float(paired_differences(objective, plan, other).mean()))
    if objective.says_size or not np.isfinite(difference):
        return False
    items = len(objective.items(plan))
    if are_verdicts(objective, plan) and are_verdicts(objective, other):
        turned = max(1.0, TIMES * float(np.sqrt(2 * items * _flipped(dtype))))
        return difference * items <= turned + 1e-9
    bound = rounding_bound(dtype, items)
    if not (is_exponential(objective) or objective.unit.startswith("nats")):
        bound *= max(abs(objective.value(plan)), abs(objective.value(other)))
    return difference <= bound


def _flipped(dtype: str) -> float:
    return FLIPPED * ROUNDOFF[dtype] / ROUNDOFF["bfloat16"]
