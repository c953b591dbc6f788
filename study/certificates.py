"""What is certain on the search windows: optima of spaces measured whole, and plans that no swap improves."""

from collections.abc import Iterator

from results.run import Run
from searcher.contracts.plan import Granularity, PrunePlan
from study.records import Certificate
from study.setting import Setting
from study.tiers import Space


def certify(setting: Setting) -> Iterator[Certificate]:
    """Pairs and triples, plans among the blocks that greedy removes first, and the swaps of greedy's plans."""
    tier = setting.tier
    spaces = {space.granularity: space for space in tier.spaces}
    for size, granularities in ((2, tier.pairs), (3, tier.triples)):
        for granularity in granularities:
            yield all_plans(setting, spaces[granularity], size, tier.data_seeds[0])
    size, among = tier.narrowed
    for seed in tier.data_seeds:
        yield among_the_first(setting, spaces[Granularity.BLOCK], size, seed, among)
        yield one_swap_away(setting, spaces[Granularity.BLOCK], size, seed)


def count_certificates(setting: Setting) -> int:
    """How many :func:`certify` makes."""
    tier = setting.tier
    return len(tier.pairs) + len(tier.triples) + 2 * len(tier.data_seeds)


def all_plans(setting: Setting, space: Space, size: int, seed: int) -> Certificate:
    """The optimum of a size."""
    run = setting.run("exhaustive", space, size, seed)
    return _certificate(setting, f"all plans of {size}", space, size, seed, run)


def among_the_first(setting: Setting, space: Space, size: int, seed: int, count: int) -> Certificate:
    """The optimum of a size among the so many units that greedy removes first."""
    greedy = setting.run("greedy", space, count, seed)
    every = PrunePlan.parse(f"0-{greedy.record['num_blocks'] - 1}")
    kept = PrunePlan.of(set(every.removed) - set(greedy.best.plan.removed))
    run = setting.run("exhaustive", space, size, seed, name=f"exhaustive-of-{count}", keep=str(kept))
    told = f"plans of {size} among the {count} units that greedy removes first"
    return _certificate(setting, told, space, size, seed, run)


def one_swap_away(setting: Setting, space: Space, size: int, seed: int) -> Certificate:
    """From greedy's plan by single swaps, until none of them is better."""
    greedy = setting.run("greedy", space, size, seed)
    run = setting.run("local", space, size, seed, start=str(greedy.best.plan), strategy_args={"doubles": 0})
    return _certificate(setting, "plans one swap from the best, reached from greedy's", space, size, seed, run)


def _certificate(setting: Setting, told: str, space: Space, size: int, seed: int, run: Run) -> Certificate:
    notes, greedy = run.outcome["notes"], setting.run("greedy", space, size, seed)
    if "certificates" in notes:
        plans = notes["certificates"][str(size)]["plans"]
    else:
        plans = 1 + notes["local_optima"][str(size)]["neighbours"]
    return Certificate(
        told,
        str(space.granularity),
        size,
        seed,
        space.windows,
        plans,
        str(run.best.plan),
        run.best.search["perplexity"],
        str(greedy.best.plan),
        greedy.best.search["perplexity"],
        run.outcome["cost"]["charged"]["total"],
    )
