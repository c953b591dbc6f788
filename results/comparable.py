"""May runs be compared? Only if what they measured was the same model on the same text.

Where plans were chosen need not be the same, if they are judged on the same report windows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from results.finished_run import FinishedRun
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError

FIELDS = (
    "quantize",
    "model_fingerprint",
    "dtype",
    "device_type",
    "text_fingerprint",
    "window_tokens",
    "report_windows",
    "heal",
    "heal_windows",
    "heal_text_fingerprint",
    "heal_answers",
)
"""What must be equal, fields of `identity` in `run.json`; the names under which model and text were given need not."""
SEARCHED = ("windows", "data_seed")
"""Fields that say on which windows plans were chosen."""
SAME = 0.01
"""Relative difference of the dense model's numbers on the report split, up to which windows are taken for the same."""


def same_search(one: FinishedRun, other: FinishedRun) -> bool:
    """Whether both chose their plans on the same search windows."""
    here, there = one.record["identity"], other.record["identity"]
    return not any(_different(here, there, *SEARCHED))


def check_comparable(runs: Sequence[FinishedRun], other_search: bool = False) -> None:
    """Refuse runs that measured something else.

    Args:
        runs: two or more.
        other_search: whether they may have chosen their plans on other search windows, if only they are judged on the
            same report windows.

    Raises:
        UsageError: two runs differ in what they measured, with the field and both values; or they have no objective in
            common.
    """
    first = runs[0]
    for other in runs[1:]:
        if not other_search:
            for field, here, there in _different(first.record["identity"], other.record["identity"], *SEARCHED):
                raise _not_comparable(first, other, field, here, there)
        for field, here, there in _differences(first, other):
            raise _not_comparable(first, other, field, here, there)
    if not common_objectives(runs):
        told = "; ".join(f"{run.folder.name}: {', '.join(run.objectives)}" for run in runs)
        raise UsageError(f"These runs have no objective in common ({told})", "Compare runs that measured the same")


def _not_comparable(first: FinishedRun, other: FinishedRun, field: str, here: Any, there: Any) -> UsageError:
    return UsageError(
        f"{first.folder} and {other.folder} cannot be compared: {field} is {_short(here)} in the one, "
        f"{_short(there)} in the other",
        "Compare runs of the same model, text and windows",
    )


def common_objectives(runs: Sequence[FinishedRun]) -> tuple[str, ...]:
    """Labels of the objectives that all of the runs have measured, in the order of the first."""
    return tuple(label for label in runs[0].objectives if all(label in run.objectives for run in runs))


def different_machines(runs: Sequence[FinishedRun]) -> Iterator[str]:
    """What may make the last digits of values differ, a line each."""
    for name, values in (
        ("processor", [run.record["hardware"]["name"] for run in runs]),
        ("torch", [run.record["versions"].get("torch") for run in runs]),
        ("transformers", [run.record["versions"].get("transformers") for run in runs]),
    ):
        if len(set(values)) > 1:
            yield f"Not all were measured with the same {name} ({', '.join(map(str, dict.fromkeys(values)))})."
    environments = [run.record["environment"] for run in runs if "environment" in run.record]
    if len({one.get("instructions") for one in environments}) > 1:
        yield "Not all were measured on processors with the same vector instructions."


def other_goals(runs: Sequence[FinishedRun], labels: Sequence[str], objective: str) -> Iterator[str]:
    """Which runs did not simply search for this objective among all units, a line each."""
    for run, label in zip(runs, labels, strict=True):
        config = run.config
        if config.weight:
            weights = " + ".join(f"{weight:g} {name}" for name, weight in config.weight.items())
            yield f"{label} searched for a weighted sum, {weights}, and chose its plans by that."
        elif config.searched[0] != objective:
            yield f"{label} searched for {config.searched[0]}, and chose its plans by that, not by {objective}."
        if config.robust != "mean":
            yield f"{label} chose its plans by their {config.robust} text, not by the mean over all windows."
        if "shortlists" in run.outcome:
            by = config.healed_by
            yield f"{label} chose among its best plans by what {by} made of them; the values here are without."
        bounds = [f"--at-most {name}={bound}" for name, bound in config.at_most.items()]
        bounds += [f"--at-least {name}={bound}" for name, bound in config.at_least.items()]
        bounds += [f"--keep {config.keep}"] if config.keep else []
        bounds += [f"--max-attention {config.max_attention}"] if config.max_attention is not None else []
        bounds += [f"--max-ffn {config.max_ffn}"] if config.max_ffn is not None else []
        if bounds:
            yield f"{label} was bound by {' '.join(bounds)}."


def _differences(one: FinishedRun, other: FinishedRun) -> Iterator[tuple[str, Any, Any]]:
    here, there = one.record["identity"], other.record["identity"]
    yield from _different(here, there, *FIELDS)
    sources = [_sources(run) for run in (one, other)]
    for label in common_objectives((one, other)):
        specs = one.config.objective_specs[label], other.config.objective_specs[label]
        if specs[0] != specs[1]:
            yield f"objective {label}", *_as_text(*specs)
        elif sources[0][label] != sources[1][label]:
            yield f"the source of objective {label}", sources[0][label], sources[1][label]
        elif unlike := _unlike_reads(one, other, label):
            yield unlike
        else:
            yield from _unlike_items(one, other, label)
    if not same_search(one, other):  # then the fingerprint of all inputs differs, whatever they are judged on
        yield from _unlike_report(one, other)
    elif tuple(one.objectives) == tuple(other.objectives):  # else it differs by what only one of them has measured
        yield from _different(here, there, "inputs_fingerprint")
        if "environment" in one.record and "environment" in other.record:  # older runs have not kept it
            yield from _different(here, there, "extra_fingerprint")


def _different(here: dict[str, Any], there: dict[str, Any], *fields: str) -> Iterator[tuple[str, Any, Any]]:
    for field in fields:
        if here.get(field) != there.get(field):
            yield field, here.get(field), there.get(field)


def _unlike_items(one: FinishedRun, other: FinishedRun, label: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two runs have not the same number of items of an objective on the splits that they should share."""
    splits = ("search", "report") if same_search(one, other) else ("report",)
    if (items := _items(one, label, splits)) != (others := _items(other, label, splits)):
        yield f"the number of items of objective {label}", items, others


def _items(run: FinishedRun, label: str, splits: Sequence[Any]) -> str:
    """How many numbers an objective has on each split that plans are chosen or judged on."""
    counted = {
        split: sum(group.rows for group in run.measurements.layout[split] if label in group.objectives)
        for split in splits
    }
    return " and ".join(f"{number} on {split}" for split, number in counted.items())


def _unlike_report(one: FinishedRun, other: FinishedRun) -> Iterator[tuple[str, Any, Any]]:
    """What of the report split cannot be the same, as the dense model's numbers on it tell."""
    for label in common_objectives((one, other)):
        if not one.objectives[label].repeatable:
            continue
        here, there = (run.measurements.rows("report", PrunePlan(), label) for run in (one, other))
        if len(here) == len(there) and not np.allclose(here, there, rtol=SAME, atol=SAME, equal_nan=True):
            row = int(np.argmax(np.abs(here - there)))
            yield f"{label} of the dense model in row {row} of the report", float(here[row]), float(there[row])


def _as_text(one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]]) -> tuple[str, str]:
    """Name and options of two objectives."""
    return f"{one[0]} {one[1] or ''}".strip(), f"{other[0]} {other[1] or ''}".strip()


def _sources(run: FinishedRun) -> dict[str, str | None]:
    """The fingerprint of each objective's own file; none of ours has one."""
    return dict(zip(run.config.objective_specs, run.record["identity"]["objective_sources"], strict=True))


def _unlike_reads(one: FinishedRun, other: FinishedRun, label: str) -> tuple[str, Any, Any] | None:
    """The first that an objective read and that is not the same, with both digests; older runs have not kept them."""
    if "environment" not in one.record or "environment" not in other.record:
        return None
    here, there = (run.record["identity"].get("objective_reads", {}).get(label, {}) for run in (one, other))
    unlike = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    return (f"{unlike[0]} of objective {label}", here.get(unlike[0]), there.get(unlike[0])) if unlike else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
