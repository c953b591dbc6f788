"""Is a checkpoint what was measured? A fresh process loads it, and what it finds is compared with the candidate."""

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from searcher.architecture.custom_model import has_own_code
from searcher.architecture.devices import on_cpu
from searcher.checkpoint import fresh
from searcher.checkpoint.forms import Notes
from searcher.checkpoint.verify import TOLERANCE, agreement
from searcher.contracts.form import Form
from searcher.contracts.granularity import granularity_of
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.replay.repair import Repair, ReplacementModule
from searcher.replay.replay import Replay, repaired
from searcher.replay.self_check import open_replay, probe_of

SILENT_BYTES = 8
"""What a layer of a float32 cache takes that only counts tokens: a key and a value of one number each."""
OWN_ERROR = 10.0
"""How many times as much as the dense model a pruned one may differ from itself with a cache, where the dense one does:
what such a cache gives is noise of some size."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """What a checkpoint is to be like.

    Attributes:
        replay: of the dense model, with the weights as they are saved.
        plan: what is removed.
        repair: what healing changed, merged.
        parameters: that are left.
        cache: bytes of key-value cache a token in float32; None if unknown.
    """

    replay: Replay
    plan: PrunePlan
    repair: Repair
    parameters: int
    cache: float | None


def check_checkpoint(folder: Path, candidate: Candidate, notes: Notes) -> dict[str, Any]:
    """Compare the checkpoint with the candidate, as a fresh process loads it.

    Returns:
        The fields of :class:`searcher.checkpoint.verify.Verified`; and as `dense_cache_difference` by how much the
        dense model differs from itself with a key-value cache, if that is why this one may.

    Raises:
        UsageError: it is another model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch) / "reference.safetensors"
        save_file(_reference(candidate), reference)
        trust = ["--trust-remote-code"] if has_own_code(candidate.replay.model) else []
        place, wanted = str(folder.resolve()), str(reference)
        found: dict[str, Any] = fresh.in_fresh_process("searcher.checkpoint.verify", place, wanted, *trust)
    if not _agrees(found):
        found["dense_cache_difference"] = _own_difference(candidate.replay.model)
    for wrong in _mistakes(candidate, notes, found):
        raise UsageError(f"The checkpoint is not what was measured: {wrong}", "This is an error of searcher: report it")
    if wrong := _cache_mistake(found):
        custom = notes.form is Form.CUSTOM  # else all that runs is transformers', on a config that fits the weights
        raise UsageError(
            f"The checkpoint is not what was measured: {wrong}",
            "This is an error of searcher: report it"
            if custom
            else "transformers has no cache for this order of blocks: take another plan, or --no-check and no cache",
        )
    return found


def _agrees(found: Mapping[str, Any]) -> bool:
    """Whether it does with a key-value cache what it does without."""
    difference = found["cache_difference"]
    return difference is not None and difference <= TOLERANCE and bool(found["same_text"])


def _own_difference(model: Any) -> float | None:
    """By how much the dense model in float32 differs from itself with a cache; None if it cannot be run with one."""
    with torch.inference_mode(False):
        dense = on_cpu(copy.deepcopy(model)).float()
    return agreement(dense, probe_of(dense)).cache_difference


def _mistakes(candidate: Candidate, notes: Notes, found: Mapping[str, Any]) -> list[str]:
    wrong = []
    if not found["logit_difference"] <= TOLERANCE:  # NaN is none either
        wrong.append(f"its logits differ by {found['logit_difference']:.2g} of the largest")
    if found["parameters"] != candidate.parameters:
        wrong.append(f"it has {found['parameters']:,} parameters, not {candidate.parameters:,}")
    if candidate.cache is not None and found["cache_difference"] is not None:
        counted = sum(_counts(candidate.replay, name) for names in notes.silent.values() for name in names)
        room = SILENT_BYTES * (len(notes.inserted) + counted) + 1  # windows keep fewer tokens
        if not candidate.cache - 1 <= found["cache_bytes"] <= candidate.cache + room:
            wrong.append(
                f"its key-value cache takes {found['cache_bytes']:,.1f} bytes a token, not {candidate.cache:,.1f}"
            )
    return wrong


def _cache_mistake(found: Mapping[str, Any]) -> str:
    """What is wrong with a key-value cache that is not with the dense model's; empty if nothing is."""
    if "dense_cache_difference" not in found:
        return ""
    own, difference = found["dense_cache_difference"], found["cache_difference"]
    if own is None or (difference is not None and own > TOLERANCE and difference <= OWN_ERROR * own):
        return ""
    if difference is None:
        return "it cannot be run with a key-value cache, and the dense model can"
    return (
        f"with a key-value cache its logits differ by {difference:.2g} of the largest, the dense model's by {own:.2g}"
    )


def _counts(replay: Replay, name: str) -> bool:
    """Whether the sublayer of this name has a place in the cache, where its replacement counts tokens."""
    return any(hasattr(getattr(b, name, None), "layer_idx") for b in replay.architecture.blocks)


def _reference(candidate: Candidate) -> dict[str, torch.Tensor]:
    """Logits of the candidate in float32, with the weights as they are saved."""
    repair = candidate.repair
    with torch.inference_mode(False):
        model = on_cpu(copy.deepcopy(candidate.replay.model)).float()
        weights = {name: weight.cpu().float() for name, weight in repair.weights.items()}
        after = {
            place: ReplacementModule(copy.deepcopy(one.module).cpu().float(), one.like)
            for place, one in repair.after.items()
        }
    replay, ids = open_replay(model, granularity_of([candidate.plan])), probe_of(model)
    with repaired(replay, Repair({}, weights, after)):
        ((_, hidden),) = replay.states(ids, [candidate.plan])
        logits = torch.stack(list(replay.head.logits(hidden, ids)))
    return {"ids": ids.clone(), "logits": logits.float().contiguous().clone()}
