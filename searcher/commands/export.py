"""From a plan to a checkpoint: written, verified in a fresh process, and there whole or not at all."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from searcher.architecture.custom_model import has_own_code
from searcher.architecture.packed_weights import refuse_packed
from searcher.checkpoint.card import Card, Terms, describe_check, terms_of, write_card
from searcher.checkpoint.check import Candidate, check_checkpoint
from searcher.checkpoint.exported import Exported
from searcher.checkpoint.forms import Notes, choose_form, in_form
from searcher.checkpoint.target import check_room, check_target, new_folder
from searcher.checkpoint.write import COMPANIONS, TERMS, copy_companions, note, write_model
from searcher.commands.opened import Opened
from searcher.commands.progress import Progress
from searcher.contracts.form import Form
from searcher.contracts.plan import Part, PrunePlan
from searcher.errors import first_line
from searcher.evaluation.executor import one_core
from searcher.loading.embedded import EMBEDDED_LICENSE, EMBEDDED_NAME, EMBEDDED_ORIGINAL
from searcher.replay.repair import Repair
from searcher.runs.fingerprint import plain_fingerprint

ROOM = 1.05
"""Bytes to write for each byte of weights: tokenizer and config come to them."""


def export(
    opened: Opened, target: Path, card: Card, form: Form | None, force: bool, check: bool, progress: Progress
) -> Exported:
    """Write a checkpoint; it is there whole and verified, or not at all.

    Raises:
        UsageError: the folder or the form does not fit, the disk is full, or the checkpoint is not what it should be.
    """
    check_target(target, force, opened.loaded.folder)
    refuse_packed(
        opened.loaded.model,
        f"An export of '{opened.loaded.name}'",
        "it is rebuilt from plain tensors, which packed ones are not",
        "Export the plan by --plan from the checkpoint that it was made from, and quantise what is written",
    )
    chosen = choose_form(opened.plan, opened.repair, form, opened.loaded.model)
    repair = opened.repair.merged(opened.replay.model)
    facts = facts_of(opened, chosen)
    parameters = sum(p.nbytes for p in opened.replay.model.parameters())
    check_room(target, int(ROOM * parameters * facts["parameters"] / facts["dense_parameters"]))
    loaded = opened.loaded
    with new_folder(target, force) as folder, one_core(), torch.inference_mode():
        progress.say(f"Writing {opened.plan} in the form {chosen}")
        card = with_command(card, target, form, check)
        more = {**opened.notes(), "command": card.command}
        with in_form(opened.replay, opened.plan, repair, chosen) as (model, notes):
            write_model(folder, model, loaded.dtype, loaded.tokenizer)
        complete(loaded.fingerprint, progress)
        if loaded.folder:
            copy_companions(loaded.folder, folder)
        note(folder, notes, more)
        found = compare_loaded(opened, repair, folder, facts, notes, progress) if check else None
        card = replace(card, terms=terms_of(loaded.name, known_terms(loaded.name), loaded.folder))
        write_card(
            folder, target.name, card, {**facts, "verified": describe_check(found), "healed_on": opened.healed_on}
        )
        note(folder, notes, more)
        size = size_of(folder)
    return exported(target, opened.plan, facts, size, found)


def with_command(card: Card, target: Path, form: Form | None, check: bool) -> Card:
    """The card with the options of writing added to its command."""
    given = [*(["--form", form] if form else []), *([] if check else ["--no-check"]), "-o", str(target)]
    return replace(card, command=f"{card.command} {shlex.join(given)}")


def compare_loaded(
    opened: Opened, repair: Repair, folder: Path, facts: Mapping[str, Any], notes: Notes, progress: Progress
) -> dict[str, Any]:
    """See :func:`searcher.checkpoint.check.check_checkpoint`; the model is in memory, and in float32 twice besides."""
    progress.say("Loading it again in a fresh process")
    cache = facts["cache"] and facts["cache"] * 4 / opened.loaded.dtype.itemsize
    candidate = Candidate(opened.replay, opened.plan, repair, facts["parameters"], cache)
    return check_checkpoint(folder, candidate, notes)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def exported(
    target: Path, plan: PrunePlan, facts: Mapping[str, Any], size: int, found: dict[str, Any] | None
) -> Exported:
    """What was written, by what its card says."""
    cache = (facts["dense_cache"], facts["cache"]) if facts["dense_cache"] else None
    sizes = (facts["dense_parameters"], facts["parameters"])
    return Exported(target, Form(facts["form"]), plan, sizes, cache, size, found, facts["dtype"], facts["precision"])


def complete(fingerprint: str, progress: Progress, patterns: Sequence[str] = ()) -> None:
    """Fetch the files of a model that loading it left on the hub, those of further patterns among them."""
    kind, _, place = plain_fingerprint(fingerprint).partition(":")
    if kind == "hub":
        name, _, commit = place.rpartition("@")
        try:
            snapshot_download(name, revision=commit, allow_patterns=[*TERMS, *COMPANIONS, "README.md", *patterns])
        except (OSError, ValueError) as error:
            progress.warn(f"License and processor of {name} could not be fetched and are left out: {first_line(error)}")


def known_terms(name: str) -> Terms:
    """Where a model comes from, as far as its name says it."""
    return Terms(EMBEDDED_ORIGINAL, EMBEDDED_LICENSE) if name == EMBEDDED_NAME else Terms()


def facts_of(opened: Opened, form: Form) -> dict[str, Any]:
    """What the checkpoint is expected to take, and what the card says of it."""
    amounts, plan = opened.amounts, opened.plan
    left = PrunePlan.of(unit for unit in plan.removed if unit.part is Part.BLOCK or form is not Form.ZEROED)
    repair = opened.repair.of(plan, opened.replay.num_blocks)
    cache = amounts.get("kv-cache")
    likes = [replacement.like for replacement in repair.after.values() if replacement.like is not None]
    blocks = sum(cache.block[like] for like in likes) if cache else 0.0
    return {
        "plan": str(plan),
        "form": str(form),
        "dense_parameters": int(amounts["parameters"].whole),
        "parameters": int(amounts["parameters"].left(left)) + repair.parameters,
        "dense_cache": cache.whole if cache else None,
        "cache": cache.left(left) + blocks if cache else None,
        "dtype": str(opened.loaded.dtype).removeprefix("torch."),
        "precision": opened.precision,
        "own_code": has_own_code(opened.loaded.model),
        "steps": [asdict(step) for step in opened.history.steps],
    }
