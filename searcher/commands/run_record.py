"""`run.json`: what a run is, so that the same command finds it again and another one is refused."""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from searcher.architecture.devices import computes_on_cpu, name_of
from searcher.commands.prepared import Prepared
from searcher.contracts import registry
from searcher.contracts.objective import HEALED, Split
from searcher.errors import UsageError
from searcher.evaluation.groups import Group
from searcher.loading.environment import environment
from searcher.runs.config import RunConfig
from searcher.runs.dependencies import dependencies_of
from searcher.runs.fingerprint import digest_of
from searcher.runs.identity import environment_changes, identity_change, unrecorded
from searcher.runs.journal import RUN_FILE, write_json
from searcher.runs.layout import GroupKind, layout_to_json
from searcher.runs.notation import parse_seconds, parse_spec
from searcher.runs.places import absolute, by_name
from searcher.runs.run_file import read_run_file
from searcher.runs.versions import versions

FORMAT = 1
"""Version of the run folder's contents."""


def _healing_fingerprints(field: str, spec: str) -> dict[str, Any]:
    """What a healing repairs by: its source, if it is the user's own, and its version."""
    name, options = parse_spec(spec)
    version = registry.make("healing", name, options).version
    return {f"{field}_source": registry.source_fingerprint("healing", name), f"{field}_version": version}


def make_identity(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """Everything that must be the same for two runs to be the same run, as plain JSON values.

    Files count by what they hold, wherever they are.
    """
    sources = [registry.source_fingerprint("objective", name) for name, _ in config.objective_specs.values()]
    fingerprints: dict[str, Any] = {
        "model_fingerprint": prepared.model.fingerprint,
        "text_fingerprint": prepared.text.fingerprint,
        "inputs_fingerprint": _inputs_fingerprint(prepared),
        "objective_sources": sources,
        "strategy_source": registry.source_fingerprint("strategy", config.strategy),
    }
    searched = config.of_kind("search")
    if config.search_by is None:  # a run that searches for what is asked is what it was before there was any other
        del searched["search_by"]
    if config.robust == "mean":  # a run is what it was before there was any other
        del searched["robust"]
    if config.heal_rounds == 1:  # the same
        del searched["heal_rounds"]
    if config.heal is None:
        del searched["heal_top"]
    else:
        fingerprints |= _healing_fingerprints("healing", config.heal)
    if config.heal_final is not None:
        fingerprints |= _healing_fingerprints("heal_final", config.heal_final)
    if prepared.text.heal_fingerprint is not None:
        fingerprints["heal_text_fingerprint"] = prepared.text.heal_fingerprint
    beside = {"extra_fingerprint": _extra_fingerprint(prepared), **_reads(config, prepared)}
    known = {name: value for name, value in beside.items() if value}  # most runs have none of it
    identity: dict[str, Any] = json.loads(json.dumps(by_name(prepared.resolved | searched) | fingerprints | known))
    return identity


def _reads(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """What the plug-ins of the run read and import."""
    objectives = {
        label: dependencies_of("objective", name, options) | dict(prepared.objectives[label].depends_on())
        for label, (name, options) in config.objective_specs.items()
    }
    healing = {} if config.heal is None else dependencies_of("healing", *parse_spec(config.heal))
    final = {} if config.heal_final is None else dependencies_of("healing", *parse_spec(config.heal_final))
    return {
        "objective_reads": {label: found for label, found in objectives.items() if found},
        "strategy_reads": dependencies_of("strategy", config.strategy, config.strategy_args),
        "healing_reads": healing,
        "heal_final_reads": final,
    }


def _inputs_fingerprint(prepared: Prepared) -> str:
    """Of every token that is measured on, in the order and groups it is run."""
    digest = hashlib.sha256()
    for split, group in _measured_on(prepared):
        digest.update(f"{split}/{group.layout}".encode())
        digest.update(group.ids.cpu().numpy().tobytes() + group.scored.cpu().numpy().tobytes())
    return digest.hexdigest()


def _extra_fingerprint(prepared: Prepared) -> str | None:
    """Of what objectives have put beside their tokens, such as right answers; None if there is nothing.

    Where no objective reads the windows, they are here: they show that the tokenizer is the same.
    """
    measured = list(_measured_on(prepared))
    extras = [
        (f"{split}/{group.layout.name}/{name}/{tensor.dtype}/{tuple(tensor.shape)}", tensor)
        for split, group in measured
        for name, tensor in sorted(group.extra.items())
    ]
    if not any(group.layout.kind is GroupKind.WINDOWS for _, group in measured):
        extras += [(f"{split}/{tuple(ids.shape)}", ids) for split, ids in sorted(prepared.windows.items())]
    digest = hashlib.sha256()
    for place, tensor in extras:
        digest.update(place.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest() if extras else None


def _measured_on(prepared: Prepared) -> Iterator[tuple[Split, Group]]:
    for split, groups in sorted(prepared.executor.groups.items()):
        if split != "screen" and split not in HEALED:  # those have the windows of other splits once more
            yield from ((split, group) for group in groups)


def default_name(config: RunConfig, identity: dict[str, Any]) -> str:
    """A folder name for a run: what it searches, and a hash of all that must be the same for the same run."""
    digest = digest_of(identity)[:8]
    strategy = config.strategy.rpartition(":")[2].lower()
    return re.sub(r"[^\w.-]", "", f"{strategy}-{config.granularity}-{config.budget.replace('%', 'pct')}-{digest}")


def make_record(config: RunConfig, prepared: Prepared, identity: dict[str, Any]) -> dict[str, Any]:
    """What `run.json` holds of a run that begins."""
    return {
        "format": FORMAT,
        "config": absolute(config).model_dump(mode="json"),
        "identity": identity,
        "environment": environment(prepared.model.device),
        "limits": config.of_kind("limit"),
        "model": prepared.model.name,
        "text": prepared.text.name,
        **({"heal_text": prepared.text.heal_name} if prepared.text.healing else {}),
        "num_blocks": prepared.model.num_blocks,
        "prices": {"weight": list(prepared.prices.weight), "head": prepared.prices.head},
        "sizes": {name: amounts.to_json() for name, amounts in prepared.amounts.items()},
        "documents": {split: list(numbers) for split, numbers in prepared.documents.items()},
        **_texts(prepared),
        "layout": layout_to_json(prepared.executor.layout),
        "versions": versions(),
        "hardware": _hardware(prepared),
    }


def _texts(prepared: Prepared) -> dict[str, Any]:
    """Where there are several texts: their names, and of each split the number of the text that each window is of."""
    if not any(prepared.texts.values()):
        return {}
    windows = {split: list(numbers) for split, numbers in prepared.texts.items()}
    return {"texts": {"names": list(prepared.text.names), "windows": windows}}


def open_record(folder: Path, record: dict[str, Any]) -> list[str]:
    """Write a new `run.json`, or check the one there against this record and take over its grown limits.

    Args:
        folder: of the run.
        record: from :func:`make_record`; is given what is kept of the one there.

    Returns:
        Why the run, which is finished, can be shown but not gone on with; nothing if it can.

    Raises:
        UsageError: the folder holds a run of another configuration, or one with higher limits, or one that is not
            finished and was begun with other versions or on another processor.
    """
    path = folder / RUN_FILE
    if path.exists():
        before = read_run_file(folder)
        _check_identity(folder, before, record["identity"])
        _check_limits(folder, before, record["limits"])
        finished = before["limits"] == record["limits"] and "outcome" in before
        if reasons := _reasons_to_stop(before, record):
            if finished:
                return reasons
            raise UsageError(
                f"{folder} cannot be gone on with: {'; '.join(reasons)}",
                "Its numbers and new ones would not be the same: use another --name, or go on as it was begun",
            )
        kept = [
            "statistics",
            "statistics_run",
            *(["outcome"] if finished else []),
        ]  # stays finished, whatever happens now
        record |= {name: before[name] for name in kept if name in before}
    write_json(path, record)
    return []


def _check_identity(folder: Path, before: dict[str, Any], identity: dict[str, Any]) -> None:
    if before.get("format") != FORMAT:
        raise UsageError(f"{folder} was written in format {before.get('format')}, not {FORMAT}", "Use another --name")
    if change := identity_change({**before, "identity": by_name(before["identity"])}, identity):
        raise UsageError(
            f"{folder} holds a run of another configuration: {change}",
            "Use another --name, or the old value to resume that run",
        )


def _reasons_to_stop(before: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Why nothing more may be measured in the folder of a run that is otherwise the same."""
    if missing := unrecorded(before, record["identity"]):
        return [f"an older version of searcher has not kept its {', '.join(missing)}"]
    return environment_changes(before, record["environment"])


def _check_limits(folder: Path, before: dict[str, Any], limits: dict[str, Any]) -> None:
    for field, new in limits.items():
        old = before["limits"][field]
        as_number = parse_seconds if field == "timeout" else float
        if new is not None and (old is None or as_number(new) < as_number(old)):
            raise UsageError(
                f"{folder} was run with {field} {'unlimited' if old is None else old}, now {new}",
                "A limit may grow when a run is resumed, not shrink; use another --name",
            )


def _hardware(prepared: Prepared) -> dict[str, Any]:
    device = prepared.model.device
    devices = prepared.replay.devices
    name = platform.processor() or platform.machine() if computes_on_cpu(device) else name_of(device)
    return {
        "device": ", ".join(map(str, devices)),
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
