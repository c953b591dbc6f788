"""May runs be compared? Only if what they measured was the same model on the same text."""

from collections.abc import Iterator, Sequence
from typing import Any

from results.finished_run import FinishedRun
from searcher.errors import UsageError

FIELDS = (
    "model_fingerprint",
    "dtype",
    "device_type",
    "text_fingerprint",
    "window_tokens",
    "windows",
    "data_seed",
    "report_windows",
    "heal",
    "heal_windows",
)
"""What must be equal, fields of `identity` in `run.json`; the names under which model and text were given need not."""


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs that measured something else.

    Raises:
        UsageError: two runs differ in what they measured, with the field and both values; or they have no objective in
            common.
    """
    first = runs[0]
    for other in runs[1:]:
        for field, here, there in _differences(first, other):
            raise UsageError(
                f"{first.folder} and {other.folder} cannot be compared: {field} is {_short(here)} in the one, "
                f"{_short(there)} in the other",
                "Compare runs of the same model, text and windows",
            )
    if not common_objectives(runs):
        told = "; ".join(f"{run.folder.name}: {', '.join(run.objectives)}" for run in runs)
        raise UsageError(f"These runs have no objective in common ({told})", "Compare runs that measured the same")


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
        elif config.goals[0] != objective:
            yield f"{label} searched for {config.goals[0]}, and chose its plans by that, not by {objective}."
        if "shortlists" in run.outcome:
            yield f"{label} chose among its best plans by what {config.heal} made of them; the values here are without."
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
        elif (items := _items(one, label)) != (others := _items(other, label)):
            yield f"the number of items of objective {label}", items, others
    if tuple(one.objectives) == tuple(other.objectives):  # else it differs by what only one of them has measured
        yield from _different(here, there, "inputs_fingerprint")
        if "environment" in one.record and "environment" in other.record:  # older runs have not kept it
            yield from _different(here, there, "extra_fingerprint")


def _different(here: dict[str, Any], there: dict[str, Any], *fields: str) -> Iterator[tuple[str, Any, Any]]:
    for field in fields:
        if here.get(field) != there.get(field):
            yield field, here.get(field), there.get(field)


def _items(run: FinishedRun, label: str) -> str:
    """How many numbers an objective has on each split that plans are chosen or judged on."""
    counted = {
        split: sum(group.rows for group in run.measurements.layout[split] if label in group.objectives)
        for split in ("search", "report")
    }
    return " and ".join(f"{number} on {split}" for split, number in counted.items())


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
