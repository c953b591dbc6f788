"""How often a few windows choose the worse of two plans, by loss, by divergence, or by both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import Opened, measure, open_model, report
from benchmarks.evaluator import removals
from benchmarks.setting import Setting, command, start
from benchmarks.steps import Steps
from objectives.divergence import KL
from objectives.loss import Loss
from searcher.contracts.objective import Split
from searcher.contracts.plan import Granularity, PrunePlan, all_units
from searcher.evaluation.open_executor import open_executor
from searcher.runs.measurement import Measurements

DEFAULTS = Setting(windows=64)
DRAWS = 200
"""Of windows to choose by, for each pair of plans."""
UNITS = (Granularity.BLOCK, Granularity.FFN, Granularity.SUBLAYER)
Values = Mapping[PrunePlan, NDArray[np.float64]]
"""float64 (2, windows) of each plan: its loss and its divergence from the dense model, in nats per token."""

CRITERIA: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "loss": lambda values: values[0],
    "KL": lambda values: values[1],
    "loss + KL": lambda values: values[0] + values[1],
    "loss + 2 KL": lambda values: values[0] + 2 * values[1],
    "loss + 4 KL": lambda values: values[0] + 4 * values[1],
}
"""What plans may be chosen by, on each window."""


def candidates(opened: Opened, granularity: Granularity, count: int, known: Values) -> list[PrunePlan]:
    """Plans of one size that a search has to choose between: one that is good by leave-one-out, and some one swap away.

    Args:
        opened: the model.
        granularity: which units are removed.
        count: how many plans.
        known: of the dense model's units, each alone.
    """
    units = sorted(all_units(opened.replay.num_blocks, granularity), key=lambda u: known[PrunePlan.of([u])][0].mean())
    size = removals(opened.replay.num_blocks) * (2 if granularity is Granularity.SUBLAYER else 1)
    removed, left = units[:size], units[size : 2 * size]  # a swap for one that is far worse is no hard choice
    swaps = [(out, into) for out in removed for into in left]
    drawn = np.random.default_rng(0).permutation(len(swaps))[: count - 1]
    swapped = ([u for u in removed if u != swaps[i][0]] + [swaps[i][1]] for i in drawn)
    return list(dict.fromkeys([PrunePlan.of(removed), *map(PrunePlan.of, swapped)]))


def values_of(opened: Opened, plans: Sequence[PrunePlan], steps: Steps) -> Values:
    """Loss and divergence of these plans, window by window."""
    with torch.inference_mode():
        objectives = {"loss": Loss(), "kl": KL()}
        windows: dict[Split, Tensor] = {"search": opened.ids}
        executor = open_executor(opened.replay, objectives, windows, opened.loaded.tokenizer, opened.prices)
    known = Measurements(executor.layout)
    measure(executor, plans, known, steps.done)
    return {plan: np.stack([known.rows("search", plan, name) for name in objectives]) for plan in plans}


def choices(values: Values, counts: Sequence[int], draws: int) -> Iterator[dict[str, Any]]:
    """For each criterion and number of windows: how often it chooses the worse plan of two, and what that costs.

    The better plan of a pair is the one of the lower loss on the windows that were not drawn; all criteria and numbers
    of windows see the same draws.
    """
    windows = next(iter(values.values())).shape[1]
    orders = np.array([np.random.default_rng(seed).permutation(windows) for seed in range(draws)])
    pairs = list(combinations(values.values(), 2))
    worse = np.array([(one[0] - other[0])[orders[:, max(counts) :]].mean(axis=1) for one, other in pairs])  # the one is
    for name, criterion in CRITERIA.items():
        by_window = [criterion(one) - criterion(other) for one, other in pairs]
        for count in counts:
            chosen = np.sign([gap[orders[:, :count]].mean(axis=1) for gap in by_window])  # 1: the other one
            lost = -chosen * worse  # above 0: the chosen one is worse
            yield {
                "chosen by": name,
                "windows": count,
                "wrong": float((lost > 0).mean()),
                "regret, nats": float(lost.clip(min=0).mean()),
            }


def main(
    setting: Setting,
    plans: Annotated[int, typer.Option(help="How many of each kind of unit, to be chosen between in pairs.")] = 12,
) -> None:
    """How often the worse of two plans of equal size is chosen, by the number of windows and by what it is chosen on.

    Plans are neighbours of one that is good by leave-one-out, of blocks, FFNs and sublayers: pairs as a search meets
    them at its end. Windows are drawn many times; the rest of the text says which plan is better.

    Takes 6 minutes on 2 cores with AMX.
    """
    with Steps("choices") as steps:
        opened = open_model(setting)
        count = 3 if setting.quick else plans
        alone = {g: [PrunePlan.of([u]) for u in all_units(opened.replay.num_blocks, g)] for g in UNITS}
        steps.expect(sum(map(len, alone.values())) + count * len(UNITS))
        rows: list[dict[str, Any]] = []
        counts = [n for n in (4, 8, 16, 32) if n <= len(opened.ids) // 2] or [1]
        for granularity in UNITS:
            steps.at(f"{granularity}, each unit alone")
            here = opened.at(granularity)
            known = values_of(here, alone[granularity], steps)
            steps.at(f"{granularity}, plans to choose between")
            found = values_of(here, candidates(here, granularity, count, known), steps)
            rows += [
                {"units": str(granularity), **row} for row in choices(found, counts, 5 if setting.quick else DRAWS)
            ]
    title = f"The worse of two plans is chosen: {opened.described}, {count} plans of each kind"
    report(setting, f"choices-{opened.kind}", title, rows)


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)
