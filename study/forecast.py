"""How long the study will take on this machine, told before it begins."""

from math import comb

from searcher.contracts.plan import Granularity
from study.judging import other_searches
from study.setting import Setting
from study.tiers import ALLOWANCE, Space, Tier

BLOCKS = 30
"""Of SmolLM2-135M."""
LORA_STEP = 1500.0
"""Plans times windows that a step of LoRA takes as long as, on a plan and on the control; measured on 2 cores."""


def hours(setting: Setting) -> float:
    """An estimate from a search for one block, timed now; nothing is counted as known already."""
    tier, space = setting.tier, setting.tier.spaces[0]
    small = Space(space.granularity, (1,), 4, ())
    cost = setting.run("greedy", small, 1, 0, name="timing").outcome["cost"]
    seconds: float = cost["seconds"] / max(cost["executed"]["evaluations"], 1) / small.windows
    return (_searches(tier) + _certificates(tier) + _judging(tier) + _healing(tier)) * seconds / 3600


def _searches(tier: Tier) -> float:
    """Plans times windows that are run; a portfolio has greedy's plans among its own, and finds them measured."""
    others = sum(ALLOWANCE - (strategy == "portfolio") for strategy in tier.strategies)
    total = 0.0
    for space in tier.spaces:
        each = _greedy(space, max(space.sizes)) + sum(others * _greedy(space, size) for size in space.sizes)
        each += sum(ALLOWANCE * _greedy(space, size) for size in space.more_text)
        total += len(tier.data_seeds) * space.windows * each
    for _, granularity, size in other_searches(tier):
        space = next(space for space in tier.spaces if space.granularity is granularity)
        total += (1 + others) * space.windows * _greedy(space, size)
    return total


def _certificates(tier: Tier) -> float:
    windows = {space.granularity: space.windows for space in tier.spaces}
    pairs = sum(windows[g] * comb(_units(g), 2) for g in tier.pairs)
    triples = sum(windows[g] * comb(_units(g), 3) for g in tier.triples)
    size, among = tier.narrowed
    return pairs + triples + len(tier.data_seeds) * tier.spaces[0].windows * (comb(among, size) + 200)


def _judging(tier: Tier) -> float:
    """Every chosen plan on the report windows: by its run, for the divergence, and on items about as long."""
    searches = len(tier.data_seeds) * sum(
        len(space.sizes) * (1 + len(tier.strategies)) + len(space.more_text) for space in tier.spaces
    )
    return 3.0 * searches * tier.report_windows


def _healing(tier: Tier) -> float:
    steps = int(tier.healing.partition("steps=")[2] or 0)  # what fits in closed form takes no time beside the rest
    return LORA_STEP / 20 * steps * len(tier.healed) * len(tier.healed_seeds) * (1 + len(tier.strategies))


def _greedy(space: Space, size: int) -> int:
    """Plans that greedy measures."""
    return sum(_units(space.granularity) - removed for removed in range(size))


def _units(granularity: Granularity) -> int:
    return 2 * BLOCKS if granularity is Granularity.SUBLAYER else BLOCKS
