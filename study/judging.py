"""The chosen plans on unseen text: other texts than they were chosen on, multiple choice, and after healing."""

from collections.abc import Iterator, Sequence

import searcher
from searcher.commands.evaluate import measure_plans
from searcher.commands.progress import Progress
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.runs.config import MeasurementConfig
from searcher.runs.options import make_config
from study.rows import Rows
from study.searches import Search, compare
from study.setting import Setting
from study.tiers import MORE_TEXT, Tier

DENSE = PrunePlan()
TEXTS = ("prose", "manual", "code", "choices")
MEASURES = {"perplexity": "loss", "kl": "kl", "accuracy": "accuracy"}
"""What the numbers of an objective are called: those of perplexity are mean losses."""


def search_other_texts(setting: Setting) -> Iterator[Search]:
    """Plans chosen on the manual, on code and by multiple choice; those of prose are there already."""
    for text, granularity, size in other_searches(setting.tier):
        space = next(space for space in setting.tier.spaces if space.granularity is granularity)
        yield from compare(setting, space, size, setting.tier.data_seeds[0], text)


def other_searches(tier: Tier) -> list[tuple[str, Granularity, int]]:
    """Text, units and size: all texts for the first units, and the manual for the others."""
    first, *others = tier.transfer
    return [(text, *first) for text in TEXTS[1:]] + [("manual", *other) for other in others]


def take_from_runs(searches: Sequence[Search], rows: Rows) -> None:
    """What the runs have measured of their chosen plans on the report split."""
    for search in searches:
        if search.text == "choices":  # measured on few items only
            continue
        for plan in (DENSE, search.run.best.plan):
            for name in search.run.objectives:
                values = search.run.measurements.rows("report", plan, name)
                rows.add(search.text, MEASURES[name], plan, values)
    rows.keep()


def to_judge(setting: Setting, searches: Sequence[Search]) -> Iterator[tuple[str, str, list[PrunePlan]]]:
    """Text, objective and plans of what the runs have not measured themselves."""
    chosen = list(dict.fromkeys(search.run.best.plan for search in searches))
    yield "prose", "kl", [search.run.best.plan for search in searches if search.text == "prose"]
    for text in TEXTS[:-1]:
        yield text, "perplexity", [search.run.best.plan for search in transferred(setting, searches)]
    yield "choices", "accuracy", chosen


def transferred(setting: Setting, searches: Sequence[Search]) -> list[Search]:
    """One search of each method and text, of the sizes that were searched for on several texts."""
    seed = setting.tier.data_seeds[0]
    return [
        search
        for search in searches
        if (search.run.config.granularity, search.size) in setting.tier.transfer
        and search.run.config.data_seed == seed
        and search.method != MORE_TEXT
    ]


def judge(setting: Setting, text: str, objective: str, plans: Sequence[PrunePlan], rows: Rows) -> None:
    """Measure plans and the dense model on the report split of a text, or on the report half of the items."""
    lacking = rows.lacking(text, MEASURES[objective], [DENSE, *plans])
    if not lacking:
        return
    config = make_config(MeasurementConfig, setting.measured_on(text) | {"objective": [objective]})
    with Progress(quiet=True) as progress:
        found = measure_plans(config, lacking, "report", progress)
    for plan, of_plan in found.rows.items():
        rows.add(text, MEASURES[objective], plan, of_plan[objective])
    rows.keep()


def heal(setting: Setting, plan: PrunePlan, rows: Rows) -> None:
    """A plan and the dense model after the same healing, on the report split of prose."""
    recipe = setting.tier.healing
    if not rows.lacking("prose", f"loss after {recipe}", [plan]):
        return
    measured_on = setting.measured_on("prose")
    found = searcher.heal(plan=str(plan), heal=recipe, runs_dir=setting.folder, quiet=True, **measured_on)
    (healed,) = found.healed
    rows.add("prose", f"loss after {recipe}", plan, healed.rows["perplexity"])
    rows.add("prose", f"loss after {recipe}", DENSE, healed.control_rows["perplexity"])
    rows.keep()


def plans_to_heal(setting: Setting, searches: Sequence[Search]) -> list[PrunePlan]:
    """Of each granularity the plans of one size, greedy's and the strategies'."""
    chosen = [
        search.run.best.plan
        for search in searches
        if search.text == "prose"
        and setting.tier.healed.get(search.run.config.granularity) == search.size
        and search.run.config.data_seed in setting.tier.healed_seeds
        and search.method != MORE_TEXT
    ]
    return list(dict.fromkeys(chosen))
