"""From a plan of whole blocks to a checkpoint without loading the model: what can be written so, and how."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import cached_files

from searcher.architecture.custom_model import has_own_code
from searcher.checkpoint.card import Card, describe_check, terms_of, write_card
from searcher.checkpoint.copy_check import check_copy
from searcher.checkpoint.copying import CannotBeCopiedError, CopySource, copy_checkpoint, find_copy_source
from searcher.checkpoint.exported import Exported
from searcher.checkpoint.forms import Notes
from searcher.checkpoint.history import History, history_of
from searcher.checkpoint.shards import PLAIN
from searcher.checkpoint.streamed_check import check_streamed
from searcher.checkpoint.target import check_room, check_target, new_folder
from searcher.checkpoint.write import CODE, TOKENIZER, copy_code, copy_tokenizer, note
from searcher.commands.export import compare_loaded, complete, exported, facts_of, known_terms, size_of, with_command
from searcher.commands.opened import Opened
from searcher.commands.progress import Progress
from searcher.contracts.form import Form
from searcher.contracts.plan import PrunePlan
from searcher.evaluation.executor import one_core
from searcher.loading.model import STORED, choose_dtype, load_tokenizer
from searcher.loading.model_source import find_source
from searcher.loading.pretrained import quietly
from searcher.replay.repair import Repair
from searcher.replay.self_check import probe_of
from searcher.runs.config import MeasurementConfig
from searcher.runs.identity import Origin

IN_MEMORY = 1 << 31
"""Bytes that a model may take in float32, twice, to be loaded and run for the check; a larger one is not loaded."""
BESIDE = 1 << 24
"""Bytes of what comes to the weights: tokenizer, config, card."""


@dataclass(frozen=True, eq=False)
class Copy:
    """A plan that can be written straight from the files of its model.

    Attributes:
        source: the files.
        fingerprint: of the model.
        config: which model it is.
        asked: whether its dtype was asked for.
    """

    source: CopySource
    fingerprint: str
    config: MeasurementConfig
    asked: bool

    @property
    def small(self) -> bool:
        """Whether the model can as well be loaded, and its logits compared."""
        return not self.source.packed and 8 * self.source.skeleton.parameters().whole <= IN_MEMORY

    @property
    def history(self) -> History:
        """What the model has been through, this plan included."""
        before, source = history_of(self.source.folder), self.source
        return before.then(source.name, source.plan, "", source.kept, source.skeleton.num_blocks)

    @property
    def precision(self) -> str:
        """Why its weights are in their dtype."""
        dtypes = self.source.dtypes
        if self.source.packed:
            return f"as in the original, which {self.source.packed} has quantised"
        if self.asked:
            return "as asked"
        if self.fingerprint.startswith("gguf:"):
            return "to which the GGUF file was dequantised"
        return "as in the original" + (", which keeps some in another precision" if len(dtypes) > 1 else "")

    @property
    def _plain_dtype(self) -> str:
        return next((one for one in self.source.dtypes if one in PLAIN.values()), self.source.dtypes[0])

    def facts(self) -> dict[str, Any]:
        """What the checkpoint takes, and what the card says of it, as :func:`searcher.commands.export.facts_of`."""
        source = self.source
        parameters = source.skeleton.parameters()
        cache = source.skeleton.cache(probe_of(source.skeleton.model).shape[1])
        return {
            "plan": str(source.plan),
            "form": str(Form.STOCK),
            "dense_parameters": int(parameters.whole),
            "parameters": int(parameters.left(source.plan)),
            "dense_cache": cache.whole if cache else None,
            "cache": cache.left(source.plan) if cache else None,
            "dtype": ", ".join(source.dtypes) if source.packed else self._plain_dtype,
            "precision": self.precision,
            "own_code": has_own_code(source.skeleton.model),
            "steps": [asdict(step) for step in self.history.steps],
        }


def find_copy(
    config: MeasurementConfig,
    plan: PrunePlan,
    form: Form | None,
    dtype: str | None,
    origin: Origin | None,
    progress: Progress,
) -> Copy | None:
    """Whether a plan that is not healed can be written from the files of its model; None if the model must be loaded.

    Args:
        config: which model.
        plan: what to remove.
        form: that is asked for.
        dtype: that is asked for.
        origin: of the run that the plan is from; its model must be this one.
        progress: told why the model must be loaded, where the plan does not say it.

    Raises:
        UsageError: there is no such model, it is damaged, or the plan does not fit it.
    """
    if form is Form.CUSTOM or any(unit.part != "block" for unit in plan.removed):
        return None
    found = find_source(config.model, config.revision)
    if origin is not None:
        origin.check_model(found.fingerprint, found.name)
    try:
        if found.revision is not None:
            _fetch_weights(found.location, found.revision)
        source = find_copy_source(found.folder, found.name, plan, config.trust_remote_code)
        if dtype is not None and dtype != STORED:
            _refuse_other_dtype(source, dtype)
    except CannotBeCopiedError as error:
        progress.say(f"The model is loaded to write it: {error}")
        return None
    return Copy(source, found.fingerprint, config, dtype is not None)


def _fetch_weights(name: str, commit: str) -> None:
    """Have the weights of a model on the hub in its cache.

    Raises:
        CannotBeCopiedError: there are none in safetensors, or they cannot be fetched.
    """
    optional = {"revision": commit, "_raise_exceptions_for_missing_entries": False}
    try:
        with quietly():
            if cached_file(name, SAFE_WEIGHTS_NAME, **optional):
                return
            if index := cached_file(name, SAFE_WEIGHTS_INDEX_NAME, **optional):
                files = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
                cached_files(name, sorted(files), revision=commit)
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise CannotBeCopiedError("its files cannot be had from the hub") from error


def _refuse_other_dtype(source: CopySource, dtype: str) -> None:
    wanted = str(choose_dtype(dtype, torch.device("cpu"))).removeprefix("torch.")
    if source.packed or source.dtypes != [wanted]:
        raise CannotBeCopiedError(f"its weights are turned into {wanted}")


def export_copy(
    copy: Copy,
    opened: Opened | None,
    target: Path,
    card: Card,
    form: Form | None,
    force: bool,
    check: bool,
    progress: Progress,
) -> Exported:
    """Write a checkpoint from the files of the model; it is there whole and verified, or not at all.

    Args:
        copy: what is written.
        opened: the same plan with the model in memory, where logits are to be compared.
        target: folder of the checkpoint.
        card: what to say of it.
        form: that was asked for.
        force: replace a checkpoint that is there.
        check: compare it with the original.
        progress: told what is going on.

    Raises:
        UsageError: the folder does not fit, the disk is full, or the checkpoint is not what it should be.
    """
    source = copy.source
    check_target(target, force, source.folder)
    check_room(target, source.bytes + BESIDE)
    facts = copy.facts() if opened is None else facts_of(opened, Form.STOCK)
    with new_folder(target, force) as folder:
        progress.say(f"Copying {len(source.kept)} of {source.skeleton.num_blocks} blocks ({source.bytes / 1e9:.2f} GB)")
        card = with_command(card, target, form, check)
        notes = Notes(str(source.plan), Form.STOCK, {}, {}, source.skeleton.model.config.model_type)
        more = {"original": source.name, "healing": "", **copy.history.to_json(), "command": card.command}
        with progress.part("copy") as done:
            copy_checkpoint(source, folder, done)
        _copy_beside(copy, folder, progress)
        note(folder, notes, more)
        found = None
        if check:
            with progress.part("compare") as done:
                found = check_copy(source, folder, done)
            found |= compare_logits(copy, opened, folder, facts, notes, progress)
        card = replace(card, terms=terms_of(source.name, known_terms(source.name), source.folder))
        write_card(folder, target.name, card, {**facts, "verified": describe_check(found)})
        note(folder, notes, more)
        size = size_of(folder)
    return exported(target, source.plan, facts, size, found)


def compare_logits(
    copy: Copy, opened: Opened | None, folder: Path, facts: Mapping[str, Any], notes: Notes, progress: Progress
) -> dict[str, Any]:
    """What running the checkpoint has shown; of a large model's, with weights in memory block by block.

    Raises:
        UsageError: it is another model.
    """
    with one_core(), torch.inference_mode():
        if opened is None:
            progress.say("Running it and the original block by block")
            return check_streamed(copy.source.folder, copy.source.plan, folder, copy.config.trust_remote_code)
        return compare_loaded(opened, Repair(), folder, facts, notes, progress)


def _copy_beside(copy: Copy, folder: Path, progress: Progress) -> None:
    """Tokenizer, processor, generation config, license, and code of its own."""
    config, source = copy.config, copy.source.folder
    options = {"trust_remote_code": config.trust_remote_code}
    tokenizer = load_tokenizer(config.model, revision=config.revision, **options)
    complete(copy.fingerprint, progress, [*TOKENIZER, *CODE])
    if any(_names_code(source / file) for file in ("config.json", "tokenizer_config.json")):
        copy_code(source, folder)
    copy_tokenizer(source, folder, tokenizer, lambda place: AutoTokenizer.from_pretrained(place, **options))


def _names_code(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return '"auto_map"' in path.read_text(encoding="utf-8")
    return False
