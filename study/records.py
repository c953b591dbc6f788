"""The rows of the study's CSV files."""

from dataclasses import dataclass

SEARCHES, ROWS, WINDOWS, CERTIFICATES = "searches.csv", "rows.csv", "windows.csv", "certificates.csv"
SETTING = "setting.json"


@dataclass(frozen=True)
class Found:
    """A search, and what it found.

    Attributes:
        text: what was searched on: prose, manual, code or choices.
        granularity: of the units.
        size: units removed.
        data_seed: choice of search windows.
        method: the strategy, or `greedy, more text`.
        windows: search windows.
        plan: what it chose.
        objective: what it searched for: perplexity, or accuracy on choices.
        search_value: the objective's value on the search windows or items.
        plans_charged: plans that it asked for.
        cost_charged: what it was charged, in layer-forward equivalents per 1,000 tokens.
        cost_run: the part of it that had not been measured by an earlier search.
        seconds: that this part took.
        run: name of its run folder.
    """

    text: str
    granularity: str
    size: int
    data_seed: int
    method: str
    windows: int
    plan: str
    objective: str
    search_value: float
    plans_charged: float
    cost_charged: float
    cost_run: float
    seconds: float
    run: str


@dataclass(frozen=True)
class Certificate:
    """The best of the plans of a space, all measured, beside greedy's.

    Attributes:
        space: which plans, in words.
        granularity: of the plans.
        size: units removed.
        data_seed: choice of search windows.
        windows: how many.
        plans: in the space.
        optimum: the best.
        optimum_perplexity: its perplexity on the search windows.
        greedy: greedy's plan.
        greedy_perplexity: its perplexity there.
        cost: what the search was charged, in layer-forward equivalents per 1,000 tokens.
    """

    space: str
    granularity: str
    size: int
    data_seed: int
    windows: int
    plans: int
    optimum: str
    optimum_perplexity: float
    greedy: str
    greedy_perplexity: float
    cost: float
