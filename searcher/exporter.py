"""From a plan to a checkpoint: load, heal if asked, write, and verify in a fresh process."""

import copy
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from searcher.amounts import Amounts
from searcher.checkpoint.card import Card, license_of, write_card
from searcher.checkpoint.custom import has_own_code
from searcher.checkpoint.forms import Notes, choose_form, in_form, materialised
from searcher.checkpoint.write import check_room, check_target, copy_terms, new_folder, write_model
from searcher.config import MeasurementConfig
from searcher.crew import one_core
from searcher.errors import UsageError
from searcher.form import Form
from searcher.granularity import granularity_of
from searcher.healer import Healer, make_healing
from searcher.identity import Origin
from searcher.model import LoadedModel
from searcher.notation import plain_recipe
from searcher.plan import Part, PrunePlan
from searcher.preparation import cut_heal, load
from searcher.prices import measure_prices
from searcher.progress import Progress
from searcher.repair import Repair, StandIn
from searcher.repair_store import RepairStore
from searcher.replay import Replay, repaired
from searcher.selfcheck import open_replay, probe_of
from searcher.sizes import measure_amounts
from searcher.text import load_text

TOLERANCE = 1e-4
"""Of float32 logits, relative to the largest."""
SILENT_BYTES = 8
"""What a layer of a float32 cache takes that only counts tokens: a key and a value of one number each."""
ROOM = 1.05
"""Bytes to write for each byte of weights: tokenizer and config come to them."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A model with a plan, and what healing has changed.

    Attributes:
        loaded: the model and its tokenizer.
        replay: checked for the plan's units.
        plan: what is removed.
        repair: what healing changes; nothing without healing.
        healing: how it was healed, empty if it was not.
        amounts: what the parts of the model take.
    """

    loaded: LoadedModel
    replay: Replay
    plan: PrunePlan
    repair: Repair
    healing: str
    amounts: Mapping[str, Amounts]


@dataclass(frozen=True)
class Exported:
    """A checkpoint that was written.

    Attributes:
        folder: where.
        form: how.
        plan: what was removed.
        parameters: of the dense model, and left.
        cache: key-value cache bytes a token of the dense model, and left, in the dtype of the weights; None if unknown.
        bytes: of all files.
        verified: what a fresh process found, None if it was not asked.
    """

    folder: Path
    form: Form
    plan: PrunePlan
    parameters: tuple[int, int]
    cache: tuple[float, float] | None
    bytes: int
    verified: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `searcher export`."""
        return {
            "folder": str(self.folder),
            "form": str(self.form),
            "plan": str(self.plan),
            "parameters": {"dense": self.parameters[0], "left": self.parameters[1]},
            "kv_cache": None if self.cache is None else {"dense": self.cache[0], "left": self.cache[1]},
            "bytes": self.bytes,
            "verified": self.verified,
        }


def open_plan(
    config: MeasurementConfig,
    plan: PrunePlan,
    heal: str | None,
    runs_dir: Path,
    progress: Progress,
    origin: Origin | None = None,
) -> Opened:
    """Load a model and heal the plan, or take what was kept of that.

    Args:
        config: which model and text.
        plan: what to remove.
        heal: how to heal it, if it is to be.
        runs_dir: the folder of runs, in which repairs are kept.
        progress: is told how it goes.
        origin: of the run that the plan is from; its model and text must be these.

    Raises:
        UsageError: the model, the plan or the healing does not fit; or healing failed.
    """
    if heal is not None:
        heal = plain_recipe(heal)  # under which it is kept
        make_healing(heal)
    progress.say(f"Loading {config.model or 'the default model'}")
    with one_core():
        loaded = load(config, progress.say)
        if origin is not None:
            origin.check_model(loaded.fingerprint, loaded.name)
        plan.check(loaded.num_blocks)
        with torch.inference_mode():
            replay = open_replay(loaded.model, granularity_of([plan]))
            amounts = measure_amounts(replay, probe_of(loaded.model).shape[1])
            repair = Repair() if heal is None else _heal(config, loaded, replay, plan, heal, runs_dir, progress, origin)
    return Opened(loaded, replay, plan, repair, heal or "", amounts)


def _heal(
    config: MeasurementConfig,
    loaded: LoadedModel,
    replay: Replay,
    plan: PrunePlan,
    heal: str,
    runs_dir: Path,
    progress: Progress,
    origin: Origin | None,
) -> Repair:
    text = load_text(config.data)
    if origin is not None:
        origin.check_text(text.fingerprint, text.name)
    windows = cut_heal(config, text, loaded, heal)
    store = RepairStore(runs_dir, loaded, text, windows, replay.architecture)
    healed = store.find(plan)
    if healed is None:
        progress.say(f"Healing {plan} by {heal}")
        healer = Healer(windows, replay, measure_prices(replay, windows.fit.shape[1]))
        healer.watched_by(progress.healing)
        healed = healer.healed(plan)
        store.keep(plan, healed, progress.warn)
    if healed.failure:
        raise UsageError(f"{heal} cannot heal {plan}: {healed.failure}", "Choose another healing")
    if not healed.repair:
        progress.warn(f"{heal} did not help on held-out text, so that the plan is exported as it is")
    return healed.repair


def pruned_model(opened: Opened) -> Any:
    """The pruned and healed model itself, with weights of its own, in eval mode."""
    with torch.inference_mode():
        form = choose_form(opened.plan, opened.repair, None, opened.loaded.model)
        repair = opened.repair.merged(opened.replay.model)
        more = {"original": opened.loaded.name, "healing": opened.healing}
        return materialised(opened.replay, opened.plan, repair, form, more)


def export(
    opened: Opened, target: Path, card: Card, form: Form | None, force: bool, check: bool, progress: Progress
) -> Exported:
    """Write a checkpoint; it is there whole and verified, or not at all.

    Raises:
        UsageError: the folder or the form does not fit, the disk is full, or the checkpoint is not what it should be.
    """
    source = _source(opened)
    check_target(target, force, source)
    chosen = choose_form(opened.plan, opened.repair, form, opened.loaded.model)
    repair = opened.repair.merged(opened.replay.model)
    facts = _facts(opened, chosen)
    parameters = sum(p.nbytes for p in opened.replay.model.parameters())
    check_room(target, int(ROOM * parameters * facts["parameters"] / facts["dense_parameters"]))
    with new_folder(target, force) as folder, one_core(), torch.inference_mode():
        progress.say(f"Writing {opened.plan} in the form {chosen}")
        given = [*(["--form", form] if form else []), *([] if check else ["--no-check"]), "-o", str(target)]
        command = f"{card.command} {shlex.join(given)}"
        more = {"original": opened.loaded.name, "healing": opened.healing, "command": command}
        with in_form(opened.replay, opened.plan, repair, chosen) as (model, notes):
            write_model(folder, model, notes, opened.loaded.tokenizer, more)
        found = None
        if check:
            progress.say("Loading it again in a fresh process")
            found = _check(opened, repair, notes, folder, facts)
        license_ = card.license or (license_of(source) if source else None)
        if source:
            copy_terms(source, folder)
        said = replace(card, license=license_, command=command)
        told = {"verified": _told(found), "own_code": has_own_code(opened.loaded.model)}
        write_card(folder, target.name, said, {**facts, **told})
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    cache = (facts["dense_cache"], facts["cache"]) if facts["dense_cache"] else None
    return Exported(target, chosen, opened.plan, (facts["dense_parameters"], facts["parameters"]), cache, size, found)


def _source(opened: Opened) -> Path | None:
    """The folder that the model was loaded from, if it is in one."""
    name = opened.replay.model.name_or_path
    return Path(name).resolve() if name and Path(name).is_dir() else None


def _facts(opened: Opened, form: Form) -> dict[str, Any]:
    """What the checkpoint is expected to take."""
    amounts, plan = opened.amounts, opened.plan
    left = PrunePlan.of(unit for unit in plan.removed if unit.part is Part.BLOCK or form is not Form.ZEROED)
    repair = opened.repair.of(plan, opened.replay.num_blocks)
    cache = amounts.get("kv-cache")
    likes = [stand_in.like for stand_in in repair.after.values() if stand_in.like is not None]
    blocks = sum(cache.block[like] for like in likes) if cache else 0.0
    return {
        "plan": str(plan),
        "form": str(form),
        "dense_parameters": int(amounts["parameters"].whole),
        "parameters": int(amounts["parameters"].left(left)) + repair.parameters,
        "dense_cache": cache.whole if cache else None,
        "cache": cache.left(left) + blocks if cache else None,
    }


def _check(opened: Opened, repair: Repair, notes: Notes, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Compare the checkpoint with the candidate, as a fresh process loads it."""
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch) / "reference.safetensors"
        save_file(_reference(opened, repair), reference)
        trust = ["--trust-remote-code"] if has_own_code(opened.loaded.model) else []
        found = _in_fresh_process(str(folder), str(reference), *trust)
    for wrong in _mistakes(opened, notes, found, facts):
        raise UsageError(f"The checkpoint is not what was measured: {wrong}", "This is an error of searcher: report it")
    return found


def _in_fresh_process(*arguments: str) -> dict[str, Any]:
    """Run `searcher.checkpoint.verify`, which finds the modules that this process finds.

    Without `-P` Python would look for them in the current folder first, and a `statistics.py` there hide its own.
    """
    command = [sys.executable, "-P", "-m", "searcher.checkpoint.verify", *arguments]
    places = os.pathsep.join(os.path.abspath(place) for place in sys.path if place)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": places})
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode} and no message"]
        raise UsageError(f"The checkpoint does not load again: {last[0]}", "This is an error of searcher: report it")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _mistakes(opened: Opened, notes: Notes, found: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    wrong = []
    if not found["logit_difference"] <= TOLERANCE:  # NaN is none either
        wrong.append(f"its logits differ by {found['logit_difference']:.2g} of the largest")
    if not (found["cache_difference"] <= TOLERANCE and found["same_text"]):
        wrong.append(f"with a key-value cache its logits differ by {found['cache_difference']:.2g} of the largest")
    if found["parameters"] != facts["parameters"]:
        wrong.append(f"it has {found['parameters']:,} parameters, not {facts['parameters']:,}")
    if facts["cache"] is not None:
        silent = len(notes.inserted) + sum(_counts(opened, name) for names in notes.silent.values() for name in names)
        expected = facts["cache"] * 4 / opened.loaded.dtype.itemsize  # and what only counts, fewer tokens in windows
        if not expected - 1 <= found["cache_bytes"] <= expected + SILENT_BYTES * silent + 1:
            wrong.append(f"its key-value cache takes {found['cache_bytes']:,.1f} bytes a token, not {expected:,.1f}")
    return wrong


def _counts(opened: Opened, name: str) -> bool:
    """Whether the sublayer of this name has a place in the cache, where its stand-in counts tokens."""
    return any(hasattr(getattr(b, name, None), "layer_idx") for b in opened.replay.architecture.blocks)


def _reference(opened: Opened, repair: Repair) -> dict[str, torch.Tensor]:
    """Logits of the candidate in float32, with the weights as they are saved."""
    with torch.inference_mode(False):
        model = copy.deepcopy(opened.loaded.model).cpu().float()
        weights = {name: weight.cpu().float() for name, weight in repair.weights.items()}
        after = {
            place: StandIn(copy.deepcopy(one.module).cpu().float(), one.like) for place, one in repair.after.items()
        }
    replay, ids = open_replay(model, granularity_of([opened.plan])), probe_of(model)
    with repaired(replay, Repair({}, weights, after)):
        ((_, hidden),) = replay.states(ids, [opened.plan])
        logits = torch.stack(list(replay.head.logits(hidden, ids)))
    return {"ids": ids.clone(), "logits": logits.float().contiguous().clone()}


def _told(found: dict[str, Any] | None) -> str:
    """What was found, for a model card."""
    if found is None:
        return "It was not loaded again and compared after it was written."
    return (
        "After it was written, a fresh process loaded it in float32: its logits differ from those of the pruned model "
        f"by {found['logit_difference']:.1e} of the largest, and it generates the same {found['generated']} tokens "
        "with a key-value cache and without."
    )
