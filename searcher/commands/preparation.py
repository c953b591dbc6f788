"""From a configuration to everything that is needed to measure plans: model, windows, objectives, evaluator."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from searcher.architecture.devices import may_spread, seen
from searcher.commands.prepared import Prepared
from searcher.commands.reading import begin_reading, finish_reading
from searcher.contracts import registry
from searcher.contracts.cost import Prices
from searcher.contracts.objective import HEALED, SHORTENED, Objective, Split
from searcher.contracts.plan import Granularity
from searcher.errors import UsageError
from searcher.evaluation.executor import Executor, one_core
from searcher.evaluation.groups import SCREENING
from searcher.evaluation.open_executor import open_executor
from searcher.evaluation.ray_executor import AnyExecutor, RayExecutor, check_workers
from searcher.evaluation.ray_session import import_ray
from searcher.evaluation.ray_worker import Objectives
from searcher.healing.healer import Treatment, begin_treatment, check_answers, make_healing
from searcher.loading.environment import dense_identity
from searcher.loading.free_memory import default_limit
from searcher.loading.heal_text import HealText, cut_heal_texts
from searcher.loading.model import LoadedModel, load_model
from searcher.loading.text import Texts
from searcher.loading.text_windows import cut_text_windows
from searcher.loading.windows import Windows, check_vocabulary
from searcher.replay.dense_cache import DenseCache
from searcher.replay.relative_flops import measure_prices
from searcher.replay.replay import Replay
from searcher.replay.self_check import open_replay, refuse_overflow
from searcher.runs.config import MeasurementConfig
from searcher.runs.defaults import default_amounts
from searcher.runs.generated import parse_generated
from searcher.runs.notation import parse_bytes


def make_objectives(config: MeasurementConfig) -> dict[str, Objective]:
    """The objectives by label, with their options; needs no model, so a bad one is refused before it loads.

    Raises:
        UsageError: an objective is unknown, or its options do not fit.
    """
    for label in config.objective_args:
        if label not in config.objective_specs:
            raise UsageError(f"Options for objective '{label}', which is not measured", f"Add --objective {label}")
    return {
        label: registry.make("objective", name, options) for label, (name, options) in config.objective_specs.items()
    }


def prepare(
    config: MeasurementConfig,
    objectives: dict[str, Objective],
    granularity: Granularity,
    say: Callable[[str], None] = lambda _: None,
    screening: bool = False,
    fresh: bool = False,
    rounds: int = 1,
    heal_final: str | None = None,
) -> Prepared:
    """Load text and model, cut windows, check the replay.

    Args:
        config: what to measure, on what.
        objectives: see :func:`make_objectives`.
        granularity: what will be removed; the model is checked for it.
        say: told what is going on.
        screening: whether plans will also be measured by the screening loss.
        fresh: whether there are many search windows by default, see :attr:`searcher.contracts.strategy.Strategy.fresh`.
        rounds: in how many rounds a shortlist is healed, if it is.
        heal_final: what it is healed by, if that is not the healing of the configuration.

    Raises:
        UsageError: something of this is not as the configuration says; text is looked at before the model is loaded.
    """
    workers = _workers(config)
    healing = None if config.heal is None else make_healing(config.heal)
    if config.heal is not None and config.heal_answers:
        check_answers([config.heal], say)
    reading = begin_reading(config, say)
    text = None if reading.needs_model else reading.split()
    cores = torch.get_num_threads()
    screened_by = {SCREENING: registry.make("objective", SCREENING, {})} if screening else {}
    memory = None if config.memory is None else parse_bytes(config.memory)
    with one_core():  # nothing here is large enough to be worth the waiting of several for each other
        say(f"Loading {config.model or 'the default model; on first use it is fetched and converted'}")
        model = load(config, say)
        text = text or finish_reading(reading, config, model, say)
        resolved = _resolved(config, model, fresh)
        cut = _cut(text, model, resolved, fewer=fresh and config.windows is None)
        resolved |= {"windows": len(cut["search"].ids)}
        apart = heal_final is not None or (healing is not None and healing.scope == "plan")
        windows = _by_split(cut, screening, healed=rounds if apart else 0)
        with torch.inference_mode():
            say("Checking the replay against the model's own forward")
            replay = _checked(model, granularity, windows)
            prices = measure_prices(replay, resolved["window_tokens"])
            treatment = _treat(config, text, model, replay, prices, granularity, say)
            resolved |= {"heal_windows": treatment.text.rows} if treatment else {}
            final = _finally(heal_final, treatment, replay, prices, granularity, say)
            dense = DenseCache(dense_identity(model) | {"granularity": str(granularity)}, say)
            measured = objectives | screened_by
            local = open_executor(
                replay,
                measured,
                windows,
                model.tokenizer,
                prices,
                memory,
                cores,
                healing=treatment.text if treatment else None,
                final=final.text if final else None,
                dense=dense,
                store=model.store,
                say=say,
            )
    return Prepared(
        model=model,
        text=text,
        objectives=objectives,
        screening=screened_by,
        replay=replay,
        windows=windows,
        executor=_with_workers(local, workers, config, screened_by, memory, say),
        prices=prices,
        resolved=resolved,
        documents={split: found.documents for split, found in cut.items()},
        texts={split: found.texts for split, found in cut.items()},
        amounts=local.evaluator.facts.amounts,
        treatment=treatment,
        final=final,
        dense=dense,
    )


def _treat(
    config: MeasurementConfig,
    text: Texts,
    model: LoadedModel,
    replay: Replay,
    prices: Prices,
    granularity: Granularity,
    say: Callable[[str], None],
) -> Treatment | None:
    """How plans are healed, if they are; what is the same for all plans is fitted."""
    if config.heal is None:
        return None
    windows = cut_heal(config, text, model, config.heal)
    on = f" on {text.heal_name}" if text.healing else ""
    say(f"Healing by {windows.spec}{on}, {len(windows.held_out)} of {windows.rows} windows held out")
    return begin_treatment(windows, replay, prices, granularity)


def _finally(
    spec: str | None,
    treatment: Treatment | None,
    replay: Replay,
    prices: Prices,
    granularity: Granularity,
    say: Callable[[str], None],
) -> Treatment | None:
    """How a shortlist is healed, if not as every plan is: on the same windows."""
    if spec is None or treatment is None:
        return None
    say(f"Healing the best plans by {spec}")
    return begin_treatment(replace(treatment.text, spec=spec), replay, prices, granularity)


def _by_split(cut: Mapping[Split, Windows], screening: bool, healed: int) -> dict[Split, torch.Tensor]:
    """The windows of every split that plans are measured on; some splits read the windows of another.

    Args:
        cut: the windows of the text.
        screening: whether plans are screened.
        healed: in how many rounds plans are healed one by one; 0 if they are not.
    """
    windows = {split: found.ids for split, found in cut.items()}
    if screening:
        windows |= {"screen": windows["search"]}
    if healed:
        apart: list[Split] = ["healed-search", "healed-report", *list(SHORTENED)[: healed - 1]]
        windows |= {split: windows[HEALED[split]] for split in apart}
    return windows


def _checked(model: LoadedModel, granularity: Granularity, windows: Mapping[Split, torch.Tensor]) -> Replay:
    """A replay that equals the model's own forward, with the fastest way to do the output head."""
    replay = open_replay(model.model, granularity)
    refuse_overflow(replay, windows["search"][:1].to(model.device))
    replay.head.choose_way(replay.embed(windows["report"][:1].to(model.device)))
    return replay


def _with_workers(
    local: Executor,
    workers: int,
    config: MeasurementConfig,
    screened_by: Mapping[str, Objective],
    memory: int | None,
    say: Callable[[str], None],
) -> AnyExecutor:
    """The executor of this process, or with it those of other processes that are wanted."""
    replay = local.evaluator.replay
    if replay.streamed and (config.workers or config.ray_address):
        raise UsageError(
            "Workers need the whole model each, and its weights are streamed",
            "Leave --workers and --ray-address out, or use --weights resident where there is room",
        )
    devices = replay.devices
    if len(devices) > 1:  # the evaluators of this process take plans through all of them
        names = ", ".join(map(str, devices))
        say(f"The model is spread over {names}")
        if config.workers or config.ray_address is not None:
            raise UsageError(
                f"The model is spread over {names}, and workers are for models that fit one device",
                "Leave --workers and --ray-address out, or name one device that it fits with --device",
            )
        return local
    if replay.streamed or not (workers or config.ray_address):
        return local
    if config.workers is None and config.ray_address is None:
        import_ray()  # the default for several devices, of which it was not known whether the model needs them all
    made_of = Objectives({**config.objective_specs, **{name: (name, {}) for name in screened_by}})
    limit = memory or default_limit(devices[0])
    return RayExecutor(local, made_of, workers or None, config.ray_address, limit, say)


def load(config: MeasurementConfig, say: Callable[[str], None] = lambda _: None) -> LoadedModel:
    """The model that the configuration names; see :func:`searcher.loading.model.load_model`.

    Args:
        config: what to load.
        say: told what a user should know of how it was loaded.
    """
    loaded = load_model(
        config.model,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        dtype=config.dtype,
        device=config.device,
        weights=config.weights,
        memory=None if config.memory is None else parse_bytes(config.memory),
        quantize=config.quantize,
    )
    for warning in loaded.warnings:
        say(f"Warning: {warning}")
    if loaded.packed:
        say(f"Its weights are quantised: {loaded.packed}")
    return loaded


def _workers(config: MeasurementConfig) -> int:
    """How many are wanted, refused if they cannot be had."""
    if config.workers == 0 and config.ray_address is not None:
        raise UsageError("0 workers cannot join a Ray cluster", "Leave --workers or --ray-address out")
    gpus = 0 if config.device == "cpu" else seen()[1]
    if config.workers is None and config.ray_address is None:
        return gpus if may_spread(config.device) else 0
    wanted = config.workers or 0
    check_workers(wanted, config.ray_address, gpus or torch.get_num_threads(), "GPUs" if gpus else "cores")
    return wanted


def _resolved(config: MeasurementConfig, model: LoadedModel, fresh: bool) -> dict[str, Any]:
    defaults = default_amounts(model.device.type, fresh)
    fields = config.of_kind("measurement")
    fields |= {name: default for name, default in defaults.items() if fields[name] is None}
    if fields.get("heal_final") is None:  # a run is what it was before there was such a thing
        fields.pop("heal_final", None)
    if config.heal is None:  # the same
        del fields["heal"], fields["heal_windows"]
    if config.heal_data is None:
        del fields["heal_data"]
    if config.heal is None or not config.heal_answers:
        del fields["heal_answers"]
    if config.quantize is None:  # the same
        del fields["quantize"]
    if model.packed:
        fields["packed"] = model.packed
    fields["dtype"] = str(model.dtype).removeprefix("torch.")
    fields["device_type"] = model.device.type
    return fields


def cut_heal(config: MeasurementConfig, text: Texts, model: LoadedModel, spec: str) -> HealText:
    """The windows of a healing, as many as the configuration says, or up to the default.

    Raises:
        UsageError: the text is too short.
    """
    defaults = default_amounts(model.device.type)
    cut = cut_heal_texts(
        text,
        model.tokenizer,
        tokens=config.window_tokens or defaults["window_tokens"],
        count=config.heal_windows or _written(config) or defaults["heal_windows"],
        fewer=config.heal_windows is None,
        answers=config.heal_answers,
        spec=spec,
    )
    for ids in (cut.fit, cut.held_out):
        check_vocabulary(ids, model.model, model.tokenizer)
    return cut


def _written(config: MeasurementConfig) -> int:
    """Windows that the model has written to heal on; 0 where there is other text."""
    asked = [parse_generated(one) for one in config.heal_data or ()]
    return sum(one.windows for one in asked if one) if all(asked) else 0


def _cut(text: Texts, model: LoadedModel, resolved: dict[str, Any], fewer: bool) -> dict[Split, Windows]:
    """The windows of the search and of the report; of the search as many as there are, if fewer will do."""
    tokens = resolved["window_tokens"]
    limit = getattr(model.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit and tokens > limit:
        raise UsageError(
            f"Windows of {tokens} tokens are longer than the {limit} the model reads", "Lower --window-tokens"
        )
    wanted: list[tuple[Split, str, int | None]] = [
        ("search", "windows", resolved["data_seed"]),
        ("report", "report_windows", None),
    ]
    found = {
        split: cut_text_windows(
            text,
            model.tokenizer,
            tokens=tokens,
            count=resolved[field],
            split=split,
            option=f"--{field.replace('_', '-')}",
            seed=seed,
            fewer=fewer and split == "search",
        )
        for split, field, seed in wanted
    }
    for cut in found.values():
        check_vocabulary(cut.ids, model.model, model.tokenizer)
    return found
