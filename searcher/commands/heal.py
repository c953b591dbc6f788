"""Healing one plan in several ways, side by side, with the dense model healed the same ways."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from searcher.commands.preparation import cut_heal, make_objectives, prepare
from searcher.commands.prepared import Prepared
from searcher.commands.progress import Progress
from searcher.commands.tracking import Plans, Scale
from searcher.contracts.granularity import granularity_of
from searcher.contracts.objective import Split
from searcher.contracts.plan import DENSE, PrunePlan
from searcher.evaluation.executor import one_core
from searcher.evaluation.open_executor import open_executor
from searcher.evaluation.ray_executor import AnyExecutor
from searcher.healing.healer import check_answers, check_healing, make_healing
from searcher.healing.outcome import HealedPlan, Healings, Rows
from searcher.healing.store import RepairStore
from searcher.loading.heal_text import HealText
from searcher.runs.config import MeasurementConfig
from searcher.runs.identity import Origin
from searcher.runs.measurement import Measurements
from searcher.runs.notation import parse_bytes, plain_spec


def heal_in_ways(
    config: MeasurementConfig,
    plan: PrunePlan,
    specs: Sequence[str],
    runs_dir: Path,
    progress: Progress,
    origin: Origin | None = None,
) -> Healings:
    """See `searcher.heal`, which this is.

    Args:
        config: what is measured, on what; its own healing is not looked at.
        plan: what to remove.
        specs: the healings.
        runs_dir: the folder of runs, in which repairs are kept.
        progress: is told how it goes.
        origin: of the run that the plan is from; its model and text must be these.
    """
    specs = tuple(dict.fromkeys(map(plain_spec, specs)))
    for spec in specs:
        make_healing(spec)  # a bad one is refused before the model loads
    if config.heal_answers:
        check_answers(specs, progress.say)
    config = config.model_copy(update={"heal": None, "workers": 0, "ray_address": None})
    prepared = prepare(config, make_objectives(config), granularity_of([plan]), progress.say)
    for spec in specs:
        check_healing(spec, prepared.replay)
    if origin is not None:
        origin.check_model(prepared.model.fingerprint, prepared.model.name)
        origin.check_text(prepared.text.fingerprint, prepared.text.name)
        origin.check_heal_text(prepared.text.heal_fingerprint, prepared.text.heal_name)
    plan.check(prepared.model.num_blocks)
    with contextlib.closing(prepared.executor) as executor:
        plain = _measure(executor, Scale.of_model(prepared), "report", (plan, DENSE), progress)
    heal_text = cut_heal(config, prepared.text, prepared.model, "")
    healed = []
    for spec in specs:
        progress.say(f"Healing {plan} and the dense model by {spec}")
        healed.append(_heal(config, prepared, replace(heal_text, spec=spec), plan, plain, runs_dir, progress))
    return Healings(
        prepared.model.name,
        prepared.text.name,
        plan,
        prepared.objectives,
        prepared.documents["report"],
        prepared.text.names,
        prepared.texts["report"],
        prepared.text.heal_name,
        heal_text.rows,
        prepared.resolved["window_tokens"],
        plain[DENSE],
        plain[plan],
        tuple(healed),
    )


def _heal(
    config: MeasurementConfig,
    prepared: Prepared,
    text: HealText,
    plan: PrunePlan,
    plain: Mapping[PrunePlan, Rows],
    runs_dir: Path,
    progress: Progress,
) -> HealedPlan:
    """Heal the plan and the dense model, or take what was kept of it, and measure both.

    One that is known to stay as it was has the plain rows.
    """
    objectives = make_objectives(config)
    windows: dict[Split, torch.Tensor] = {"healed-report": prepared.windows["report"]}
    memory = None if config.memory is None else parse_bytes(config.memory)
    cores = torch.get_num_threads()
    with torch.inference_mode(), one_core():
        tokenizer, prices = prepared.model.tokenizer, prepared.prices
        executor = open_executor(
            prepared.replay,
            objectives,
            windows,
            tokenizer,
            prices,
            memory,
            cores,
            healing=text,
            dense=prepared.dense,
            store=prepared.model.store,
        )
    healer = executor.evaluator.healer
    assert healer is not None, "the executor was given a healing"
    store = RepairStore(runs_dir, prepared.model, prepared.text, text, prepared.replay.architecture)
    changed = []
    for one in dict.fromkeys((plan, DENSE)):
        if (known := store.find(one)) is not None:
            healer.remember(one, known)
        if known is None or known.repair:
            changed.append(one)
    executor.watch(progress.healing, progress.say)
    healer.keep_unfinished(store.unfinished)

    def keep(one: PrunePlan) -> None:
        """As soon as it is healed: what comes after may be interrupted."""
        if store.find(one) is None:
            store.keep(one, healer.healed(one), progress.warn)

    measured = _measure(executor, Scale.of_model(prepared), "healed-report", changed, progress, keep) if changed else {}
    rows = {**plain, **measured}
    found = {one: healer.healed(one) for one in (plan, DENSE)}
    return HealedPlan(text.spec, found[plan], found[DENSE], rows[plan], rows[DENSE])


def _measure(
    executor: AnyExecutor,
    scale: Scale,
    split: Split,
    plans: Sequence[PrunePlan],
    progress: Progress,
    done: Callable[[PrunePlan], None] = lambda _: None,
) -> dict[PrunePlan, Rows]:
    """The rows of plans; told of each as soon as something of it has been measured."""
    known, plans = Measurements(executor.layout), tuple(dict.fromkeys(plans))
    ahead = Plans.ahead(scale, executor.groups, split, plans, known)
    for line in progress.counted(executor.measure(split, plans, known), ahead):
        known.add(line)
        done(line.plan)
    labels = {name: None for group in executor.layout[split] for name in group.objectives}
    return {one: {label: known.rows(split, one, label) for label in labels} for one in plans}
