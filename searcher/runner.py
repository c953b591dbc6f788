"""A run from its configuration to its folder: prepare, search, report. The same configuration resumes it."""

import hashlib
import inspect
import json
import os
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from searcher import registry
from searcher.config import RunConfig, parse_seconds
from searcher.cost import Cost, Ledger, Limits
from searcher.errors import UsageError
from searcher.journal import RUN_FILE, Journal, read_evaluations, read_json, write_json
from searcher.measurement import Measurement, Measurements
from searcher.plan import Budget, PrunePlan, legal_units
from searcher.preparation import Prepared, make_objectives, prepare
from searcher.progress import Progress
from searcher.search_loop import Recorder, SearchLoop
from searcher.selection import chosen_plans
from searcher.strategy import Outcome, Space, Strategy

FORMAT = 1
"""Version of the run folder's contents."""

_PACKAGES = ("searcher", "torch", "transformers", "tokenizers", "numpy", "scipy")


def execute(config: RunConfig, progress: Progress) -> Path:
    """Run a search, or resume it where it was left, and measure its outcome on the report split.

    Args:
        config: what to do.
        progress: is told how it goes.

    Returns:
        The run folder: `run.json` (configuration, outcome) and `evaluations.jsonl` (every measurement).

    Raises:
        UsageError: the configuration cannot be run, or the folder holds a run of another configuration.
        KeyboardInterrupt: on Ctrl-C; everything measured is kept.
    """
    started = time.monotonic()
    strategy: Strategy = registry.make("strategy", config.strategy, config.strategy_args)
    prepared = prepare(config, make_objectives(config), config.granularity, progress.say)
    space_units = legal_units(prepared.model.num_blocks, config.granularity, PrunePlan.parse(config.keep))
    sizes = Budget(config.budget).sizes(len(space_units))
    identity = _identity(config, prepared)
    folder = Path(config.runs_dir) / (config.name or _default_name(config, identity))
    with Journal(folder) as journal:
        record = _open_record(folder, config, prepared, identity)
        progress.opened(folder, prepared.resolved)
        lines = list(read_evaluations(folder))
        known = Measurements(prepared.evaluator.layout)
        for line in lines:
            known.add(line)

        def heard(line: Measurement) -> None:
            lines.append(line)
            progress.measured(line)

        recorder = Recorder(prepared.evaluator, journal, known, heard)
        recorder.measure("search", [PrunePlan()])
        dense = [line for line in lines if line.split == "search" and line.plan == PrunePlan()]
        ledger = Ledger(prepared.tariff(dense), Limits(config.max_evaluations, config.max_cost))
        space = Space(
            num_blocks=prepared.model.num_blocks,
            granularity=config.granularity,
            units=space_units,
            sizes=sizes,
            num_windows=prepared.resolved["windows"],
            seed=config.seed,
            fits=ledger.fits,
        )
        deadline = None if config.seconds is None else started + config.seconds
        loop = SearchLoop(space, recorder, ledger, prepared.objectives, deadline)
        progress.searching(space, loop, strategy.expected_evaluations(space))
        outcome = loop.run(strategy)
        chosen = chosen_plans(loop, outcome)
        progress.reporting(len(chosen) + 1)
        recorder.measure("report", [PrunePlan(), *chosen.values()])
        record["outcome"] = _outcome(loop, outcome, chosen, lines)
        write_json(folder / RUN_FILE, record)
    return folder


def _identity(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """Everything that must be the same for two runs to be the same run."""
    kinds = config.kinds()
    search = {name: value for name, value in config.model_dump(mode="json").items() if kinds[name] == "search"}
    fingerprints = {
        "model_fingerprint": prepared.model.fingerprint,
        "text_fingerprint": prepared.text.fingerprint,
        "inputs_fingerprint": _inputs_fingerprint(prepared),
    }
    return prepared.resolved | search | fingerprints


def _inputs_fingerprint(prepared: Prepared) -> str:
    """Of every token that is measured on, and of the source of objectives that are not our own."""
    digest = hashlib.sha256()
    for split, groups in sorted(prepared.evaluator.groups.items()):
        for group in groups:
            digest.update(f"{split}/{group.layout}".encode())
            digest.update(group.ids.cpu().numpy().tobytes() + group.scored.cpu().numpy().tobytes())
    for name, objective in prepared.objectives.items():
        if name not in registry.BUILT_IN["objective"]:
            digest.update(inspect.getsource(type(objective)).encode())
    return digest.hexdigest()


def _default_name(config: RunConfig, identity: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    strategy = config.strategy.rpartition(":")[2].lower()
    return re.sub(r"[^\w.-]", "", f"{strategy}-{config.granularity}-{config.budget.replace('%', 'pct')}-{digest}")


def _open_record(folder: Path, config: RunConfig, prepared: Prepared, identity: dict[str, Any]) -> dict[str, Any]:
    """Write a new `run.json`, or check the one there against this configuration and take over its grown limits."""
    path = folder / RUN_FILE
    kinds = config.kinds()
    limits = {name: value for name, value in config.model_dump().items() if kinds[name] == "limit"}
    if path.exists():
        before = read_json(path)
        _check_identity(folder, before, identity)
        _check_limits(folder, before, limits)
    record = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "identity": identity,
        "limits": limits,
        "model": prepared.model.name,
        "text": prepared.text.name,
        "num_blocks": prepared.model.num_blocks,
        "prices": {"weight": list(prepared.prices.weight), "head": prepared.prices.head},
        "layout": {
            split: [{"name": g.name, "rows": g.rows, "objectives": list(g.objectives)} for g in groups]
            for split, groups in prepared.evaluator.layout.items()
        },
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "hardware": _hardware(prepared),
    }
    write_json(path, record)
    return record


def _check_identity(folder: Path, before: dict[str, Any], identity: dict[str, Any]) -> None:
    if before.get("format") != FORMAT:
        raise UsageError(f"{folder} was written in format {before.get('format')}, not {FORMAT}", "Use another --name")
    for field in sorted(identity.keys() | before["identity"].keys()):
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hardware(prepared: Prepared) -> dict[str, Any]:
    device = prepared.model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": str(device), "name": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def _outcome(
    loop: SearchLoop, outcome: Outcome, chosen: dict[int, PrunePlan], lines: list[Measurement]
) -> dict[str, Any]:
    searched = [line for line in lines if line.split == "search" and loop.ledger.knows(line.plan)]
    executed = Cost(
        evaluations=sum(loop.recorder.known.complete("search", plan) for plan in {line.plan for line in searched}),
        layer_forwards=sum(line.layer_forwards for line in searched),
        heads=sum(line.heads for line in searched),
    )
    tariff = loop.ledger.tariff
    return {
        "chosen": {str(size): str(plan) for size, plan in chosen.items()},
        "size": loop.space.size,
        "stopped": loop.stopped,
        "notes": outcome.notes,
        "cost": {
            name: {
                "evaluations": cost.evaluations,
                "layer_forwards": cost.layer_forwards,
                "heads": cost.heads,
                "total": tariff.total(cost),
            }
            for name, cost in (("charged", loop.ledger.charged), ("executed", executed))
        }
        | {"seconds": sum(line.seconds for line in searched)},
    }
