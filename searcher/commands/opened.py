"""A model with a plan, healed if asked, in the precision in which it is to be saved."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from searcher.checkpoint.forms import choose_form, materialised
from searcher.checkpoint.history import History, history_of
from searcher.commands.preparation import cut_heal, load
from searcher.commands.progress import Progress
from searcher.commands.reading import begin_reading, finish_reading
from searcher.contracts.amounts import Amounts
from searcher.contracts.form import Form
from searcher.contracts.granularity import granularity_of
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.evaluation.executor import one_core
from searcher.healing.heal import Healed
from searcher.healing.healer import Healer, HealingRoom, check_answers, make_healing
from searcher.healing.store import RepairStore
from searcher.loading.dtypes import restore_precision, stored_dtype
from searcher.loading.free_memory import room_left
from searcher.loading.heal_text import HealText
from searcher.loading.model import STORED, LoadedModel, choose_dtype
from searcher.replay.footprint import measure_amounts
from searcher.replay.pruned_model import find_slots
from searcher.replay.relative_flops import measure_prices
from searcher.replay.repair import Repair, ReplacementModule
from searcher.replay.replay import Replay
from searcher.replay.self_check import open_replay, probe_of
from searcher.runs.config import MeasurementConfig
from searcher.runs.fingerprint import plain_fingerprint
from searcher.runs.identity import Origin
from searcher.runs.notation import parse_bytes, plain_spec


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
        precision: why its weights are in this dtype.
        healed_on: what healing was fitted on, and what it gave there, as a sentence; empty without.
    """

    loaded: LoadedModel
    replay: Replay
    plan: PrunePlan
    repair: Repair
    healing: str
    amounts: Mapping[str, Amounts]
    precision: str = "as it was loaded"
    healed_on: str = ""

    @property
    def history(self) -> History:
        """What the model has been through, this plan included."""
        slots = find_slots(self.replay.architecture, self.replay.outputs, self.plan, self.repair)
        blocks = self.replay.architecture.blocks
        sources = [source if module is blocks[source] else None for module, source in slots]
        before = history_of(self.loaded.folder)
        return before.then(self.loaded.name, self.plan, self.healing, sources, self.replay.num_blocks)

    def notes(self) -> dict[str, Any]:
        """What is kept with a checkpoint besides what it lacks."""
        return {"original": self.loaded.name, "healing": self.healing, **self.history.to_json()}


def open_plan(
    config: MeasurementConfig,
    plan: PrunePlan,
    heal: str | None,
    runs_dir: Path,
    progress: Progress,
    origin: Origin | None = None,
    dtype: str | None = None,
    form: Form | None = None,
) -> Opened:
    """Load a model and heal the plan, or take what was kept of that.

    Args:
        config: which model; healing runs in its dtype.
        plan: what to remove.
        heal: how to heal it, if at all.
        runs_dir: where repairs are kept.
        progress: told what is going on.
        origin: of the run that the plan is from; its model and text must be these.
        dtype: what the weights are to be in the end, `stored` for that of the checkpoint; by default as loaded.
        form: that will be asked for, so that one that cannot be is refused before healing.

    Where weights are to be written, a model that was quantised as it was loaded is taken as its checkpoint has it.

    Raises:
        UsageError: the model, the plan or the healing does not fit; or healing failed.
    """
    if heal is not None:
        heal = plain_spec(heal)  # under which it is kept
        make_healing(heal)
        if config.heal_answers:
            check_answers([heal], progress.say)
    if dtype is not None:  # weights are to be written
        config, origin = with_plain_weights(config, origin, progress)
    if dtype not in (None, STORED):
        choose_dtype(str(dtype), torch.device("cpu"))  # before a long healing
    progress.say(f"Loading {config.model or 'the default model'}")
    with one_core():
        opened = _open(config if heal or dtype is None else _in(config, dtype), plan, progress, origin)
        choose_form(plan, Repair(), form, opened.loaded.model)
        if heal is not None:
            with torch.inference_mode():
                repair, fit = _heal(config, opened.loaded, opened.replay, plan, heal, runs_dir, progress, origin)
            opened = replace(opened, repair=repair, healing=heal, healed_on=fit)
        return opened if dtype is None else _in_precision(opened, config, dtype, progress)


def with_plain_weights(
    config: MeasurementConfig, origin: Origin | None, progress: Progress
) -> tuple[MeasurementConfig, Origin | None]:
    """Configuration and origin for the checkpoint as it is, where a run quantised its weights as they were loaded."""
    if config.quantize is None:
        return config, origin
    progress.say(f"The plan was chosen with weights in {config.quantize}, and is taken out of the checkpoint's own")
    plain = origin and replace(origin, model_fingerprint=plain_fingerprint(origin.model_fingerprint))
    return config.model_copy(update={"quantize": None}), plain


def _in(config: MeasurementConfig, dtype: str) -> MeasurementConfig:
    return config.model_copy(update={"dtype": dtype})


def _open(config: MeasurementConfig, plan: PrunePlan, progress: Progress, origin: Origin | None = None) -> Opened:
    loaded = load(config.model_copy(update={"weights": "resident"}), progress.say)
    if origin is not None:
        origin.check_model(loaded.fingerprint, loaded.name)
    plan.check(loaded.num_blocks)
    with torch.inference_mode():
        replay = open_replay(loaded.model, granularity_of([plan]))
        amounts = measure_amounts(replay, probe_of(loaded.model).shape[1])
    return Opened(loaded, replay, plan, Repair(), "", amounts)


def _in_precision(opened: Opened, config: MeasurementConfig, dtype: str, progress: Progress) -> Opened:
    """The same with the weights in this dtype; those that stay as they were are the checkpoint's, bit for bit."""
    loaded, repair = opened.loaded, opened.repair
    stored = stored_dtype(loaded.folder) if loaded.folder else None
    as_loaded = stored == loaded.dtype if dtype == STORED else dtype == config.dtype
    if opened.healing and not as_loaded:
        progress.say("Loading it again in the precision that is written")
        again = _open(_in(config, dtype), opened.plan, progress)
        cast = _cast(repair, again.loaded.model, again.loaded.dtype)
        opened = replace(again, repair=cast, healing=opened.healing, healed_on=opened.healed_on)
        loaded = again.loaded
    if dtype != STORED:
        return replace(opened, precision="as asked")
    if loaded.fingerprint.startswith("gguf:"):
        return replace(opened, precision="to which the GGUF file was dequantised")
    others = restore_precision(loaded.model, loaded.folder) if loaded.folder else []
    return replace(
        opened, precision="as in the original" + (", which keeps some in another precision" if others else "")
    )


def _cast(repair: Repair, model: Any, dtype: torch.dtype) -> Repair:
    own = dict(model.named_parameters())
    weights = {name: weight.to(own[name].dtype) for name, weight in repair.weights.items()}
    with torch.inference_mode(False):
        after = {p: ReplacementModule(copy.deepcopy(one.module).to(dtype), one.like) for p, one in repair.after.items()}
    return Repair(repair.added, weights, after)


def _heal(
    config: MeasurementConfig,
    loaded: LoadedModel,
    replay: Replay,
    plan: PrunePlan,
    heal: str,
    runs_dir: Path,
    progress: Progress,
    origin: Origin | None,
) -> tuple[Repair, str]:
    reading = begin_reading(config, progress.say, lambda: loaded.tokenizer)
    text = finish_reading(reading, config, loaded, progress.say)
    if origin is not None:
        origin.check_text(text.fingerprint, text.name)
        origin.check_heal_text(text.heal_fingerprint, text.heal_name)
    windows = cut_heal(config, text, loaded, heal)
    store = RepairStore(runs_dir, loaded, text, windows, replay.architecture)
    healed = store.find(plan)
    if healed is None:
        progress.say(f"Healing {plan} by {heal}")
        room = room_left(None if config.memory is None else parse_bytes(config.memory), replay.model.device)
        prices = measure_prices(replay, windows.fit.shape[1])
        healer = Healer(windows, replay, prices, HealingRoom(fit=room))
        healer.watched_by(progress.healing, progress.say)
        healer.keep_unfinished(store.unfinished)
        healed = healer.healed(plan)
        store.keep(plan, healed, progress.warn)
    if healed.failure:
        raise UsageError(f"{heal} cannot heal {plan}: {healed.failure}", "Choose another healing")
    if not healed.repair:
        progress.warn(f"{heal} did not help on held-out text, so that the plan is exported as it is")
    return healed.repair, _describe_fit(healed, windows, text.heal_name)


def _describe_fit(healed: Healed, windows: HealText, name: str) -> str:
    """For the model card: on what it was fitted, on how much of it, and what that gave on the part held out."""
    trained = f", {healed.work.tokens:,} tokens trained on" if healed.work.tokens else ""
    held = "held out by which its penalty was chosen, and fitted to as well" if healed.in_sample else "held out"
    return (
        f"It was fitted on {len(windows.fit)} windows of {windows.fit.shape[1]} tokens of {name}{trained}. On "
        f"{len(windows.held_out)} windows {held}, the loss went from {healed.before:.3f} to {healed.after:.3f} nats "
        f"a token{'' if healed.repair else ', which is no gain: it was left as it was'}."
    )


def pruned_model(opened: Opened) -> Any:
    """The pruned and healed model itself, with weights of its own, in eval mode."""
    with torch.inference_mode():
        form = choose_form(opened.plan, opened.repair, None, opened.loaded.model)
        repair = opened.repair.merged(opened.replay.model)
        return materialised(opened.replay, opened.plan, repair, form, opened.notes())
