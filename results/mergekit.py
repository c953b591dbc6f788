"""A plan of whole blocks as a recipe of mergekit, which cuts the blocks out of the original checkpoint."""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache

from results.finished_run import FinishedRun
from searcher.contracts.plan import Part, PrunePlan
from searcher.errors import UsageError
from searcher.runs.files import whole
from searcher.runs.fingerprint import fingerprint_folder
from searcher.runs.identity import origin_of
from searcher.runs.journal import read_json

HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
BY_NUMBER = ("mlp_only_layers", "moe_layers", "full_attn_idxs", "first_k_dense_replace", "num_dense_layers")
"""Fields of configs that number blocks."""
BY_ORDER = (
    "sliding_window_pattern",
    "full_attention_interval",
    "attn_layer_period",
    "expert_layer_period",
    "decoder_sparse_step",
    "interleave_moe_layer_step",
    "no_rope_layer_interval",
    "global_attn_every_n_layers",
)
"""Fields that say of which kind every so many blocks are."""


def recipe(run: FinishedRun, size: int | None = None, model: str | None = None) -> dict[str, Any]:
    """The recipe of a run's chosen plan: a `passthrough` merge of the spans of blocks that stay.

    Args:
        run: the run.
        size: which of the chosen plans; by default the one of the full size.
        model: hub id or folder of the original checkpoint; by default that of the run.

    Raises:
        UsageError: the plan removes single sublayers or every block, there is no plan of this size, the model has no
            checkpoint that is known, or a config that mergekit would leave as it is for the blocks that stay.
    """
    plan = run.chosen_of(size).plan
    source = _place(model or _checkpoint(run))
    if field := _about_blocks(_config(source), run.record["num_blocks"]):
        raise UsageError(
            f"mergekit would write '{field}' of the config as it is, which says something of each block of {source}",
            "Make the checkpoint with: searcher export",
        )
    slices = [
        {"sources": [{"model": source, "layer_range": list(span)}]}
        for span in kept_spans(plan, run.record["num_blocks"])
    ]
    return {"slices": slices, "merge_method": "passthrough", "dtype": run.record["identity"]["dtype"]}


def write_merge_config(run: FinishedRun, path: Path, size: int | None = None, model: str | None = None) -> PrunePlan:
    """Write :func:`recipe` as YAML; returns the plan it is of. Raises UsageError as that does, or on a bad folder."""
    content = recipe(run, size, model)
    plan = run.chosen_of(size).plan
    head = f"# {run.record['model']} without blocks {plan}, found by the run {run.folder.name}\n"
    with whole(path) as temporary:
        temporary.write_text(head + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return plan


def kept_spans(plan: PrunePlan, num_blocks: int) -> list[tuple[int, int]]:
    """The runs of blocks that stay, as [first, last + 1).

    Raises:
        UsageError: the plan removes a single sublayer, or every block.
    """
    halves = [unit for unit in plan.removed if unit.part is not Part.BLOCK]
    if halves:
        raise UsageError(
            f"Plan {plan} removes {halves[0]} by itself, and mergekit cuts whole blocks only",
            "Choose the plan of another --size, or search with --granularity block",
        )
    kept = sorted(set(range(num_blocks)) - {unit.block for unit in plan.removed})
    if not kept:
        raise UsageError(f"Plan {plan} leaves no block to merge", "Choose the plan of a smaller --size")
    starts = [block for block in kept if block - 1 not in kept]
    ends = [block + 1 for block in kept if block + 1 not in kept]
    return list(zip(starts, ends, strict=True))


def _place(model: str) -> str:
    """The checkpoint as mergekit finds it from any folder: a path in full, for it takes others for ids of the hub."""
    path = Path(model).expanduser()
    if path.exists():
        return os.path.abspath(path)
    if not HUB_ID.fullmatch(model):
        raise UsageError(f"There is no model in {model}", "Name the checkpoint with --model-name")
    return model


def _config(source: str) -> dict[str, Any]:
    """The config of a checkpoint, as far as it is on this machine."""
    name, _, revision = source.partition("@")
    found = os.path.join(source, "config.json")
    if not os.path.isdir(source):
        found = str(try_to_load_from_cache(name, "config.json", revision=revision or None))
    return read_json(Path(found)) if os.path.isfile(found) else {}


def _about_blocks(config: dict[str, Any], num_blocks: int) -> str:
    """A field that says something of single blocks, by their number or order; empty if there is none."""
    for name, value in {**config, **(config.get("text_config") or {})}.items():
        of_each = isinstance(value, list) and len(value) == num_blocks and not name.endswith("token_id")
        if of_each or (name in BY_NUMBER and value) or (name in BY_ORDER and isinstance(value, int) and value > 1):
            return str(name)
    return ""


def _checkpoint(run: FinishedRun) -> str:
    """What mergekit can load the model of the run from."""
    model, revision = run.config.model, run.config.revision
    if model is None or model.lower().endswith(".gguf"):
        raise UsageError(
            f"mergekit reads checkpoints in the format of Hugging Face, and the run measured {run.record['model']}",
            "Name the original checkpoint with --model-name, such as HuggingFaceTB/SmolLM2-135M-Instruct",
        )
    if Path(model).is_dir():
        origin = origin_of(run.folder, run.record, run.best.plan, ())
        origin.check_model(fingerprint_folder(Path(model)), Path(model).name)
    return f"{model}@{revision}" if revision else model
