"""Shapley interaction indices: what units and pairs of them cost on average over what else is gone."""

import numpy as np
from matplotlib.figure import Figure

from results.anatomy.analysis import Analysis, Part
from results.anatomy.heat import name_ticks
from results.anatomy.pairs import MARKS, Pairs, draw_pairs, strongest
from results.anatomy.section import Section, Table, show, show_interval
from results.anatomy.zoom import zoom
from results.pictures.style import GREY, looks, new_figure, set_labels

MOST_PAIRS = 10
RELIABLE = 0.5
"""Pairs in a table; the correlation of two samplings, which is about the share of signal in one, below which noise has
the larger share."""


def shapley_section(analysis: Analysis, part: Part) -> Section:
    """The indices of single units and of pairs."""
    facts, single = part.facts, part.arrays["single"]
    says = (
        f"What {analysis.units(2)} and pairs of them cost on average over which others are gone too ({facts['index']} "
        f"of order 2, by {facts['estimator']}); all of it together is {show(facts['total'])} nats per token, what the "
        f"loss rises by without any {analysis.units(1)}. {_certainty(part)} How they change on other text was not "
        "measured."
    )
    rows = tuple((part.units[i], show(float(single[i]), 4)) for i in np.argsort(single, kind="stable"))
    units = Table(f"Every {analysis.units(1)}, the cheapest first", (analysis.units(1), "index"), rows, folded=True)
    redundant, complementary = strongest(part.arrays["pairs"], MOST_PAIRS)
    tables = (_pairs(analysis, part, "redundant", redundant), _pairs(analysis, part, "complementary", complementary))
    return Section("Shapley interactions", says, _figure(analysis, part), (*tables, units))


def _certainty(part: Part) -> str:
    facts = part.facts
    broken = f" {facts['broken']} plans gave no finite loss and count as the worst." if facts["broken"] else ""
    if facts["exact"]:
        return f"All {facts['plans']:,} sets of units were measured: on these windows the indices are exact.{broken}"
    agreement = facts["agreement"]
    shown = show_interval(agreement["value"], agreement["low"], agreement["high"])
    verdict = "1 would be the same order in both"
    if _is_noise(part):
        verdict = (
            "most of what is seen is noise of the sampling, and a larger --budget or --part interactions says more"
        )
    return (
        f"They are estimated from {facts['plans']:,} plans in two samplings, whose rank correlation over the pairs is "
        f"{shown}: {verdict}.{broken}"
    )


def _is_noise(part: Part) -> bool:
    """Whether two samplings agree so little that most of what one shows is chance."""
    agreement = part.facts["agreement"]
    return agreement is not None and (agreement["value"] or 0.0) < RELIABLE


def _figure(analysis: Analysis, part: Part) -> Figure:
    caption = [
        f"{analysis.setting}. Above: index of each {analysis.units(1)}. Below: of each pair. {MARKS}",
        _certainty(part),
    ]
    about = "mostly noise, two samplings do not agree" if _is_noise(part) else "averages over what else is gone"
    figure, axes = new_figure(f"Shapley interactions: {about}", caption, 2, 4.2)
    axes[0].get_subplotspec().get_gridspec().set_height_ratios([1, 2.4])
    single = part.arrays["single"]
    (look,) = looks(["index"])
    axes[0].axhline(0, color=GREY, linewidth=0.9)
    axes[0].plot(range(len(single)), single, look.marker, color=look.colour, markersize=5, gid="single")
    label = zoom(axes[0], single, "nats per token")
    name_ticks(axes[0], "x", part.units)
    set_labels(axes[0], "", label, f"Single {analysis.units(2)}")
    draw_pairs(figure, axes[1], analysis, part, "pairs", "Pairs")
    return figure


def _pairs(analysis: Analysis, part: Part, kind: str, pairs: Pairs) -> Table:
    rows = tuple((part.units[i], part.units[j], show(float(part.arrays["pairs"][i, j]), 4)) for i, j in pairs)
    columns = (analysis.units(1), analysis.units(1), "index in nats per token")
    return Table(f"The most {kind} pairs on average", columns, rows, words=2, note=_certainty(part))
