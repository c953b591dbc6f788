"""What follows from a comparison, in sentences."""

import math

from results.side_by_side import Entry, show_gap


def verdict(entries: tuple[Entry, ...], best: Entry | None, objective: str, sign: int) -> str:
    """What follows for the runs that chose on the reference's windows, and then for each of the others.

    Args:
        entries: of one size, the reference first.
        best: of those better than the reference on the search split by more than rounding explains.
        objective: the runs are compared by.
        sign: 1 if lower is better, else -1.
    """
    shared = any(entry.search_gap is not None for entry in entries[1:])
    on_the_same = [_on_search(entries, best, objective, sign)] if shared else []
    elsewhere = [_on_report(entries[0], e, sign) for e in entries[1:] if e.search_gap is None]
    return " ".join([*on_the_same, *elsewhere])


def _on_report(reference: Entry, entry: Entry, sign: int) -> str:
    """Of a run that chose on other search windows: it can be judged on the report windows alone."""
    start = f"{entry.label}, which chose on other windows,"
    if entry.same:
        return f"{start} has the same plan as {reference.label}."
    found = entry.report_gap
    if found.low is None or found.high is None:
        return f"{start} has {show_gap(found)} on the report windows, of which no interval can be told."
    ends = sorted((found.low * sign, found.high * sign))
    if ends[0] <= 0 <= ends[1]:
        return f"{start} differs on the report windows by what may be chance, {show_gap(found)}."
    return f"{start} is {'better' if ends[1] < 0 else 'worse'} on the report windows, {show_gap(found)}."


def _on_search(entries: tuple[Entry, ...], best: Entry | None, objective: str, sign: int) -> str:
    name = entries[0].label
    if best is None or best.search_gap is None:
        return f"{name} holds: no run found a better plan for the search windows{_beyond_rounding(entries, sign)}."
    if not math.isfinite(entries[0].evaluation.search[objective]):
        return f"{name}'s plan breaks the model on the search windows, that of {best.label} does not."
    found = best.report_gap
    start = f"{name} is beaten on the search windows by {best.label}, {show_gap(best.search_gap)} (beyond rounding)"
    if found.low is None or found.high is None:
        return f"{start}; on the report windows {show_gap(found)}, of which no interval can be told."
    ends = sorted((found.low * sign, found.high * sign))
    if ends[1] < 0:
        return f"{start}, and on the report windows, {show_gap(found)}."
    if ends[0] > 0:
        return f"{start}, but on the report windows its plan is worse, {show_gap(found)}."
    return f"{start}, but on the report windows that may be chance, {show_gap(found)}."


def _beyond_rounding(entries: tuple[Entry, ...], sign: int) -> str:
    """That nothing was called better which rounding may have made so, if there is such a plan."""
    gaps = [(e.search_gap.value * sign, e) for e in entries if e.rounded and e.search_gap]
    ahead, entry = min(gaps, key=lambda pair: pair[0], default=(0.0, None))
    if entry is None or ahead >= 0:
        return ""
    dtype = entry.run.record["identity"]["dtype"]
    return f" by more than rounding in {dtype} explains ({entry.label} {show_gap(entry.search_gap)})"
