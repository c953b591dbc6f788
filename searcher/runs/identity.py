"""What decides the numbers of a run, as its `run.json` keeps it, and who may go on from it.

A record holds an *identity* (the configuration, and fingerprints of all that is read) and an *environment* (versions
and processor). To resume a run both must be as they were; a finished one is shown in another environment too, since
nothing is measured for that. Runs share measurements whose whole :func:`measurement_identity` is equal.

Older records lack some of this. What is missing of the environment is taken to be as it was; what is missing of the
identity lets a finished run be shown, and no other go on.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.runs.config import RunConfig

READS = {
    "objective_reads": ("objective", "objective_args"),
    "strategy_reads": ("strategy", "strategy_args"),
    "healing_reads": ("heal",),
    "heal_final_reads": ("heal_final",),
}
"""Fields with what plug-ins read and import (those of objectives by label), and fields that say which these are."""
MEANING = {
    "model_fingerprint": "model, or other weights of it",
    "text_fingerprint": "text",
    "heal_text_fingerprint": "text to heal on",
    "inputs_fingerprint": "tokenizer, or choice of text or items",
    "extra_fingerprint": "set of answers or the like, which objectives keep beside their tokens",
    "healing_version": "version of the healing, which repairs otherwise",
    "heal_final_version": "version of the healing, which repairs otherwise",
}
"""What it means that a fingerprint has changed."""
BY_CONTENT = ("model", "data", "heal_data")
"""Fields that only say where something is, which fingerprints stand for."""


def measurement_identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a measured value depends on, as plain JSON values; equal means that values are the same.

    Of the dense model alone it is :func:`searcher.loading.environment.dense_identity`.

    Args:
        record: what `run.json` holds.

    Raises:
        LookupError: it is the record of a version that did not keep all of it.
    """
    searched = [name for name, kind in RunConfig.kinds().items() if kind != "measurement"]
    left_out = {*searched, "strategy_source", "strategy_reads", *BY_CONTENT}
    decided = {name: value for name, value in record["identity"].items() if name not in left_out}
    return {"format": record["format"], "environment": record["environment"], **decided}


def environment_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The environment that a run was measured in, as far as its record tells."""
    if "environment" in record:
        return dict(record["environment"])
    known = {name: version for name, version in record["versions"].items() if name != "python"}
    on_gpu = record["identity"].get("device_type") == "cuda" and "hardware" in record  # as older versions could be
    return known | ({"processor": record["hardware"]["name"]} if on_gpu else {})


def environment_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of the environment of a record is other now, a phrase each; what it does not tell is passed over."""
    old = environment_of(before)
    missing = set() if "environment" in before else set(now) - set(old)
    names = [name for name in dict.fromkeys([*now, *old]) if name not in missing]
    return [_change(name, old.get(name), now.get(name)) for name in names if old.get(name) != now.get(name)]


def _change(name: str, old: Any, new: Any) -> str:
    if name != "instructions":
        return f"{name} was {old or 'none'}, now {new or 'none'}"
    had, has = set(str(old).split()), set(str(new).split())
    told = [f"{verb} {' '.join(sorted(some))}" for verb, some in (("had", had - has), ("now has", has - had)) if some]
    return f"the processor {', '.join(told)}"


def unrecorded(before: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Fields of the identity that the record of an older version does not tell of."""
    return [] if "environment" in before else [name for name in identity if name not in before["identity"]]


def identity_change(before: Mapping[str, Any], identity: Mapping[str, Any]) -> str | None:
    """The first thing in which a run differs from the one recorded, for a message; None if it is the same.

    Args:
        before: the record.
        identity: of the run that would go on, as plain JSON values.
    """
    old, passed = before["identity"], {*BY_CONTENT, *unrecorded(before, identity)}
    for change in _changed_reads(old, identity, passed):
        return change
    for field in dict.fromkeys([*identity, *old]):  # fingerprints, which follow from the rest, come last
        if field not in passed and old.get(field) != identity.get(field):
            means = f", which is another {MEANING[field]}" if field in MEANING else ""
            return f"{field} was {_short(old.get(field))}, now {_short(identity.get(field))}{means}"
    return None


def _changed_reads(old: Mapping[str, Any], new: Mapping[str, Any], passed: set[str]) -> Iterator[str]:
    """What plug-ins read that is not as it was, if they are still the same ones with the same options."""
    for field, chosen_by in READS.items():
        if field in passed or any(old.get(name) != new.get(name) for name in chosen_by):
            continue
        before, now = (_by_owner(field, identity.get(field, {})) for identity in (old, new))
        for owner in sorted({*before, *now}):
            yield from (f"{owner}: {told}" for told in different_reads(before.get(owner, {}), now.get(owner, {})))


def _by_owner(field: str, reads: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    if field != "objective_reads":
        return {f"the {field.removesuffix('_reads')}": reads}
    return {f"objective '{label}'": found for label, found in reads.items()}


def different_reads(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """What a plug-in reads or imports that is not as it was, a phrase each."""
    for name in sorted({*before, *now}):
        old, new, what = before.get(name), now.get(name), name.rpartition("=")[2]
        if old == new:
            continue
        if old is None:
            yield f"it did not read {what}, now it does"
        elif new is None:
            yield f"it read {what}, now it does not"
        elif name.startswith("package "):
            yield f"{what} was {old}, now {new}"
        else:
            yield f"{what} has changed since"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


@dataclass(frozen=True)
class Origin:
    """The model and text of a run, for whatever goes on from it.

    Attributes:
        folder: of the run.
        model_fingerprint: of the model whose plans it has chosen.
        text_fingerprint: of the text; None if it may be another one.
        plan: of the run, for a hint.
        heal_text_fingerprint: of the text to heal on, where it is one of its own; None if it may be another one.
    """

    folder: Path
    model_fingerprint: str
    text_fingerprint: str | None
    plan: str
    heal_text_fingerprint: str | None = None

    def check_model(self, fingerprint: str, name: str) -> None:
        """Refuse another model than that of the run.

        Raises:
            UsageError: it is another one.
        """
        if fingerprint != self.model_fingerprint:
            raise UsageError(
                f"{self.folder} is a run of another model: '{name}' now has other weights, or another config",
                f"Pass the model of that run with --model; or its plan by hand with --plan {self.plan}, for this model",
            )

    def check_text(self, fingerprint: str, name: str) -> None:
        """Refuse another text than that of the run, unless one was asked for.

        Raises:
            UsageError: it is another one.
        """
        if self.text_fingerprint not in (None, fingerprint):
            raise UsageError(
                f"{self.folder} is a run on another text: '{name}' has changed since",
                f"Pass the text to go on with by --data; or the plan by hand with --plan {self.plan}",
            )

    def check_heal_text(self, fingerprint: str | None, name: str) -> None:
        """Refuse another text to heal on than that of the run, unless one was asked for.

        Raises:
            UsageError: it is another one.
        """
        if self.heal_text_fingerprint not in (None, fingerprint):
            raise UsageError(
                f"{self.folder} is a run that heals on another text: '{name}' has changed since",
                f"Pass the text to heal on by --heal-data; or the plan by hand with --plan {self.plan}",
            )


def origin_of(folder: Path, record: Mapping[str, Any], plan: PrunePlan, given: Collection[str]) -> Origin:
    """What a run was made of.

    Args:
        folder: of the run.
        record: what its `run.json` holds.
        plan: of the run, which is gone on with.
        given: which of `data` and `heal_data` were asked for, and need not be those of the run; what another text
            leaves to heal on is another text to heal on.
    """
    identity = record["identity"]
    text = None if "data" in given else identity["text_fingerprint"]
    heal_text = None if given else identity.get("heal_text_fingerprint")
    return Origin(folder, identity["model_fingerprint"], text, str(plan), heal_text)
