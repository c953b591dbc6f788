"""How much is searched, and how far it may go."""

from dataclasses import dataclass

from searcher.contracts.plan import Granularity

ALLOWANCE = 1.5
"""What every search but greedy's own may cost, as a multiple of greedy's."""
MORE_TEXT = "greedy, more text"
"""How greedy is called where it spends the allowance on search windows."""


@dataclass(frozen=True)
class Space:
    """Units that are removed, and how many of them.

    Attributes:
        granularity: what the units are.
        sizes: how many are removed, up to half of them.
        windows: search windows of 128 tokens.
        more_text: sizes at which greedy is also given the allowance, in the form of more search windows.
    """

    granularity: Granularity
    sizes: tuple[int, ...]
    windows: int
    more_text: tuple[int, ...]


@dataclass(frozen=True)
class Tier:
    """What is compared.

    Attributes:
        name: `a` or `b`.
        data_seeds: choices of search windows.
        report_windows: of 128 tokens, on which all plans are judged.
        spaces: what is searched for prose.
        strategies: besides greedy.
        pairs: granularities of which every pair of units is measured.
        triples: the same for triples.
        narrowed: a plan of this many blocks among the first so many that greedy removes, all of which are measured.
        transfer: units and how many of them are removed by plans chosen on other texts: the first on all, the others on
            the manual.
        healing: how plans are healed.
        healed: sizes at which they are.
        healed_seeds: data seeds of these plans.
    """

    name: str
    data_seeds: tuple[int, ...]
    report_windows: int
    spaces: tuple[Space, ...]
    strategies: tuple[str, ...]
    pairs: tuple[Granularity, ...]
    triples: tuple[Granularity, ...]
    narrowed: tuple[int, int]
    transfer: tuple[tuple[Granularity, int], ...]
    healing: str
    healed: dict[Granularity, int]
    healed_seeds: tuple[int, ...]


BLOCK, ATTENTION, FFN, SUBLAYER = Granularity.BLOCK, Granularity.ATTENTION, Granularity.FFN, Granularity.SUBLAYER
HEALED = {BLOCK: 8, ATTENTION: 15, FFN: 15, SUBLAYER: 16}

TIERS = {
    "a": Tier(
        name="a",
        data_seeds=(0, 1, 2),
        report_windows=64,
        spaces=(
            Space(BLOCK, (4, 8, 15), 8, (8,)),
            Space(ATTENTION, (4, 8, 15), 4, ()),
            Space(FFN, (8, 15), 8, (15,)),
            Space(SUBLAYER, (16, 30), 4, ()),
        ),
        strategies=("portfolio",),
        pairs=(BLOCK,),
        triples=(),
        narrowed=(8, 11),
        transfer=((BLOCK, 8), (SUBLAYER, 16)),
        healing="lora:steps=20",
        healed=HEALED,
        healed_seeds=(0,),
    ),
    "b": Tier(
        name="b",
        data_seeds=(0, 1, 2, 3, 4),
        report_windows=128,
        spaces=(
            Space(BLOCK, (2, 4, 6, 8, 10, 12, 15), 16, (4, 8, 12, 15)),
            Space(ATTENTION, (4, 8, 12, 15), 16, (8, 15)),
            Space(FFN, (4, 8, 12, 15), 16, (8, 15)),
            Space(SUBLAYER, (4, 8, 12, 16, 20, 24, 30), 16, (8, 16, 24, 30)),
        ),
        strategies=("portfolio", "interactions", "evolutionary", "oscillating", "beam", "shapley"),
        pairs=(BLOCK, ATTENTION, FFN, SUBLAYER),
        triples=(BLOCK,),
        narrowed=(8, 14),
        transfer=((BLOCK, 8), (SUBLAYER, 16)),
        healing="lora:steps=200",
        healed=HEALED,
        healed_seeds=(0, 1, 2, 3, 4),
    ),
}
