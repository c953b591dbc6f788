"""`run.json`: what a run is, so that the same command finds it again and another one is refused."""

import hashlib
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from searcher import registry
from searcher.config import RunConfig
from searcher.errors import UsageError
from searcher.fingerprint import digest_of
from searcher.journal import RUN_FILE, read_json, write_json
from searcher.measurement import layout_to_json
from searcher.notation import parse_recipe, parse_seconds
from searcher.objective import HEALED
from searcher.preparation import Prepared
from searcher.versions import versions

FORMAT = 1
"""Version of the run folder's contents."""


def make_identity(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """Everything that must be the same for two runs to be the same run."""
    fingerprints = {
        "model_fingerprint": prepared.model.fingerprint,
        "text_fingerprint": prepared.text.fingerprint,
        "inputs_fingerprint": _inputs_fingerprint(prepared),
        "objective_sources": [registry.source_fingerprint("objective", name) for name, _ in config.recipes.values()],
        "strategy_source": registry.source_fingerprint("strategy", config.strategy),
    }
    searched = config.of_kind("search")
    if config.heal is None:
        del searched["heal_top"]
    else:
        fingerprints["healing_source"] = registry.source_fingerprint("healing", parse_recipe(config.heal)[0])
    return prepared.resolved | searched | fingerprints


def _inputs_fingerprint(prepared: Prepared) -> str:
    """Of every token that is measured on, in the order and groups it is run."""
    digest = hashlib.sha256()
    for split, groups in sorted(prepared.crew.groups.items()):
        if split == "screen" or split in HEALED:  # the windows of other splits once more
            continue
        for group in groups:
            digest.update(f"{split}/{group.layout}".encode())
            digest.update(group.ids.cpu().numpy().tobytes() + group.scored.cpu().numpy().tobytes())
    return digest.hexdigest()


def default_name(config: RunConfig, identity: dict[str, Any]) -> str:
    """A folder name for a run: what it searches, and a hash of all that must be the same for the same run."""
    digest = digest_of(identity)[:8]
    strategy = config.strategy.rpartition(":")[2].lower()
    return re.sub(r"[^\w.-]", "", f"{strategy}-{config.granularity}-{config.budget.replace('%', 'pct')}-{digest}")


def open_record(folder: Path, config: RunConfig, prepared: Prepared, identity: dict[str, Any]) -> dict[str, Any]:
    """Write a new `run.json`, or check the one there against this configuration and take over its grown limits.

    Raises:
        UsageError: the folder holds a run of another configuration, or one with higher limits.
    """
    path = folder / RUN_FILE
    limits = config.of_kind("limit")
    kept: dict[str, Any] = {}
    if path.exists():
        before = read_json(path)
        _check_identity(folder, before, identity)
        _check_limits(folder, before, limits)
        kept = {name: before[name] for name in ("statistics",) if name in before}
        if before["limits"] == limits and "outcome" in before:  # stays finished, whatever happens now
            kept["outcome"] = before["outcome"]
    record: dict[str, Any] = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "identity": identity,
        "limits": limits,
        "model": prepared.model.name,
        "text": prepared.text.name,
        "num_blocks": prepared.model.num_blocks,
        "prices": {"weight": list(prepared.prices.weight), "head": prepared.prices.head},
        "sizes": {name: amounts.to_json() for name, amounts in prepared.amounts.items()},
        "documents": {split: list(numbers) for split, numbers in prepared.documents.items()},
        "layout": layout_to_json(prepared.crew.layout),
        "versions": versions(),
        "hardware": _hardware(prepared),
        **kept,
    }
    write_json(path, record)
    return record


def _check_identity(folder: Path, before: dict[str, Any], identity: dict[str, Any]) -> None:
    if before.get("format") != FORMAT:
        raise UsageError(f"{folder} was written in format {before.get('format')}, not {FORMAT}", "Use another --name")
    for field in dict.fromkeys([*identity, *before["identity"]]):  # fingerprints, which follow from the rest, come last
        old, new = before["identity"].get(field), json.loads(json.dumps(identity.get(field)))
        if old != new:
            raise UsageError(
                f"{folder} holds a run of another configuration: {field} was {_short(old)}, now {_short(new)}",
                "Use another --name, or the old value to resume that run",
            )


def _check_limits(folder: Path, before: dict[str, Any], limits: dict[str, Any]) -> None:
    for field, new in limits.items():
        old = before["limits"][field]
        as_number = parse_seconds if field == "timeout" else float
        if new is not None and (old is None or as_number(new) < as_number(old)):
            raise UsageError(
                f"{folder} was run with {field} {'unlimited' if old is None else old}, now {new}",
                "A limit may grow when a run is resumed, not shrink; use another --name",
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _hardware(prepared: Prepared) -> dict[str, Any]:
    device = prepared.model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": str(device), "name": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
