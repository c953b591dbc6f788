"""A run from its configuration to its folder: prepare, search, report. The same configuration resumes it."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from searcher.commands.charges import (
    SEARCHED,
    cost_to_json,
    executed,
    for_search,
    healing_price,
    open_ledger,
    paid_lines,
    rounds_to_json,
)
from searcher.commands.preparation import make_objectives, prepare
from searcher.commands.prepared import Prepared
from searcher.commands.progress import Progress
from searcher.commands.run_record import default_name, make_identity, make_record, open_record
from searcher.contracts import registry
from searcher.contracts.forecast import Forecast, forecast
from searcher.contracts.plan import DENSE, PrunePlan, Unit
from searcher.contracts.racing import FIRST_LOOK, looks
from searcher.contracts.space import Space
from searcher.contracts.statistics import check_statistics
from searcher.contracts.strategy import Outcome, Strategy
from searcher.errors import UsageError
from searcher.evaluation.executor import one_core
from searcher.healing.healer import Treatment, make_healing
from searcher.healing.store import RepairStore
from searcher.replay.dense_statistics import check_weights, find_statistics
from searcher.runs.config import RunConfig
from searcher.runs.journal import RUN_FILE, Journal, write_json
from searcher.runs.sharing import find_shared
from searcher.search.goals import check_bounds, make_goals
from searcher.search.halving import check_rounds, make_rounds
from searcher.search.loop import SearchLoop
from searcher.search.opening import find_start, open_space
from searcher.search.recorder import Recorder
from searcher.search.robust import check_robust
from searcher.search.selection import front_plans, ranked_plans
from searcher.search.shortlist import Shortlists, heal_shortlists, healing_work

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from searcher.commands.optuna_mirror import Mirror


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
    check_statistics(strategy.statistics)
    _check_racing(config, strategy)
    config = _with_goal(_with_start(config, strategy), strategy)
    objectives = make_objectives(config)
    check_bounds(config, objectives)
    check_robust(config, objectives)
    database = None if config.optuna is None else _open_database(config.optuna)
    check_rounds(config)
    prepared = prepare(
        config,
        objectives,
        config.granularity,
        progress.say,
        screening=config.screening is not None,
        fresh=strategy.fresh,
        rounds=config.heal_rounds,
        heal_final=config.heal_final,
    )
    _check_room_to_race(config, prepared)
    check_weights(prepared.replay, strategy.statistics)
    # what can be refused is refused before anything is written
    space = open_space(config, prepared.model.num_blocks, prepared.resolved["windows"], prepared.amounts)
    identity = make_identity(config, prepared)
    folder = Path(config.runs_dir) / (config.name or default_name(config, identity))
    with Journal(folder) as journal, contextlib.closing(prepared.executor):
        record = make_record(config, prepared, identity)
        if reasons := open_record(folder, record):
            progress.say(f"{folder} is shown as it was measured; nothing can be added: {'; '.join(reasons)}")
            return folder
        recorder = Recorder.resume(prepared.executor, journal, find_shared(folder, record), progress.measured)
        progress.opened(folder, prepared.resolved, recorder.shared.runs)
        loop, expected = _open_search(config, strategy, prepared, space, recorder, record, started)
        with _mirror(database, config, record, loop, progress) as mirror:
            progress.searching(loop, expected)
            run = record.get("statistics_run", strategy.statistics)  # older versions have kept none
            outcome, deadline = loop.run(strategy), _deadline(config, started)
            record["outcome"] = _judge(config, prepared, loop, outcome, deadline, run, progress)
            write_json(folder / RUN_FILE, record)
            if mirror is not None:
                mirror.finish(record["outcome"])
    return folder


def _open_search(
    config: RunConfig,
    strategy: Strategy,
    prepared: Prepared,
    space: Space,
    recorder: Recorder,
    record: dict[str, Any],
    started: float,
) -> tuple[SearchLoop, Forecast]:
    """The search, ready to go, and what it will cost: the dense model and what the strategy wants to know are measured.

    Args:
        config: of the run.
        strategy: searches.
        prepared: model and text.
        space: what may be removed.
        recorder: measures and keeps.
        record: of the run; statistics are kept in it.
        started: when the run began, by `time.monotonic`.
    """
    _measure_dense(recorder)
    ledger = open_ledger(config, prepared, recorder, strategy.statistics, space)
    statistics = _find_statistics(strategy.statistics, prepared, space.units, record, recorder.journal.folder)
    space = dataclasses.replace(space, fits=ledger.fits, statistics=statistics)
    expected = forecast(strategy, space, ledger)
    deadline = _deadline(config, started, for_search(ledger, expected))
    dense = {label: recorder.known.rows("search", DENSE, label) for label in prepared.objectives}
    goals = make_goals(config, prepared.objectives, dense, prepared.texts["search"])
    return SearchLoop(space, recorder, ledger, goals, deadline, prepared.screening), expected


def _deadline(config: RunConfig, started: float, share: float = 1.0) -> float | None:
    """When that share of the timeout is over, by `time.monotonic`."""
    return None if config.seconds is None else started + config.seconds * share


def _open_database(url: str) -> "RDBStorage":
    from searcher.commands.optuna_mirror import open_database

    return open_database(url)


def _mirror(
    database: "RDBStorage | None", config: RunConfig, record: dict[str, Any], loop: SearchLoop, progress: Progress
) -> "contextlib.AbstractContextManager[Mirror | None]":
    """What writes the run into a database, if there is one, and is told of each measurement as the progress is."""
    if database is None:
        return contextlib.nullcontext()
    from searcher.commands.optuna_mirror import Mirror
    from searcher.commands.optuna_trials import Mirrored

    recorder = loop.recorder
    mirrored = Mirrored(recorder.journal.folder.name, record, config, loop.goals, recorder.known)
    mirror = Mirror(database, mirrored, progress.warn, progress.say)
    recorder.listeners.append(mirror.heard)
    return mirror


def _store(config: RunConfig, prepared: Prepared, treatment: Treatment) -> RepairStore:
    """Where the repairs of a shortlist are kept while they are made."""
    return RepairStore(
        Path(config.runs_dir), prepared.model, prepared.text, treatment.text, prepared.replay.architecture
    )


def _judge(
    config: RunConfig,
    prepared: Prepared,
    loop: SearchLoop,
    outcome: Outcome,
    deadline: float | None,
    statistics_run: Sequence[str],
    progress: Progress,
) -> dict[str, Any]:
    """Choose plans, healed if they are to be, and measure them, the front and the dense model on the report split."""
    ranked = ranked_plans(loop, outcome)
    lists, treatment = Shortlists({}, 0), prepared.of_shortlist
    if treatment is not None:
        loop.recorder.executor.watch(progress.healing, progress.say)
        loop.recorder.executor.keep_unfinished(_store(config, prepared, treatment).unfinished)
        rounds, price = make_rounds(config.heal_rounds), healing_price(prepared, loop.ledger)
        begin = partial(progress.healing_begins, make_healing(treatment.text.spec), rounds)
        lists = heal_shortlists(loop, ranked, config.heal_top, rounds, price, deadline, begin)
        loop.recorder.measure("healed-report", [DENSE, *(plans[0] for plans in lists.healed.values())])
    chosen = {size: (lists.healed.get(size) or plans)[0] for size, plans in ranked.items()}
    front = front_plans(loop, tuple(chosen.values()))
    judged = tuple(dict.fromkeys([DENSE, *chosen.values(), *front]))
    progress.reporting(judged)
    loop.recorder.measure("report", judged)
    ended = _outcome(loop, outcome, chosen, front, statistics_run)
    if treatment is not None:
        ended["shortlists"] = {str(size): list(map(str, plans)) for size, plans in lists.healed.items()}
        ended["left_out"] = lists.left_out
        ended["cost"]["healing"] = healing_work(loop.recorder.lines)
        if config.heal_rounds > 1:
            ended["rounds"] = rounds_to_json(loop, make_healing(treatment.text.spec), lists.rounds)
    return ended


def _check_racing(config: RunConfig, strategy: Strategy) -> None:
    if (config.racing or config.screening) and not strategy.races:
        raise UsageError(
            f"Strategy '{config.strategy}' does not race: it needs every plan measured in full",
            "Leave --racing and --screening out, or take one that wants only the best of many plans, such as greedy",
        )


def _with_start(config: RunConfig, strategy: Strategy) -> RunConfig:
    """The configuration with the starting plan written out, so that it stays what it is if the run it is from grows."""
    if config.start is None:
        return config
    if not strategy.starts:
        raise UsageError(
            f"Strategy '{config.strategy}' does not start from a plan",
            "Leave --start out, or take one that improves a plan, such as local or evolutionary",
        )
    return config.model_copy(update={"start": str(find_start(config.start))})


def _with_goal(config: RunConfig, strategy: Strategy) -> RunConfig:
    """The configuration with what the strategy searches by, where only the loss or the perplexity is asked for."""
    asked = [config.objective_specs[label] for label in config.goals]
    default = strategy.searches_by
    if config.search_by is not None or default is None or asked not in ([("perplexity", {})], [("loss", {})]):
        return config
    return config if config.weight else config.model_copy(update={"search_by": default})


def _check_room_to_race(config: RunConfig, prepared: Prepared) -> None:
    windows = prepared.resolved["windows"]
    if config.racing is not None and not looks(windows):
        raise UsageError(
            f"{windows} search windows leave no room to race",
            f"Set --windows to {2 * FIRST_LOOK} or more, better 32, or leave --racing out",
        )


def _measure_dense(recorder: Recorder) -> None:
    """The dense model, never taken over from another run: it shows how many heads a plan costs."""
    for split in SEARCHED:
        if split in recorder.executor.groups:
            recorder.measure(split, [DENSE], share=False)


def _find_statistics(
    names: Sequence[str], prepared: Prepared, units: Sequence[Unit], record: dict[str, Any], folder: Path
) -> dict[str, NDArray[np.float64]]:
    """Those of the strategy, kept in the record: a run that is resumed does not measure them again, but is charged."""
    if not set(names) <= record.get("statistics", {}).keys():
        ids = prepared.windows["search"].to(prepared.model.device)
        with one_core():  # as the evaluators compute, so that the numbers do not depend on the number of cores
            found, measured = find_statistics(prepared.replay, ids, names, units, prepared.dense)
        record["statistics_run"] = list(measured)
        record["statistics"] = {name: values.tolist() for name, values in found.items()}
        write_json(folder / RUN_FILE, record)
    return {name: np.array(record["statistics"][name], dtype=np.float64) for name in names}


def _outcome(
    loop: SearchLoop,
    outcome: Outcome,
    chosen: dict[int, PrunePlan],
    front: Sequence[PrunePlan],
    statistics_run: Sequence[str],
) -> dict[str, Any]:
    searched = paid_lines(loop, (line for line in loop.recorder.lines if line.split in SEARCHED))
    return {
        "chosen": {str(size): str(plan) for size, plan in chosen.items()},
        "front": [str(plan) for plan in front],
        "size": loop.space.size,
        "missed": loop.goals.missed(loop.rows(chosen[loop.space.size])) if loop.space.size in chosen else [],
        "stopped": loop.stopped,
        "repeatable": loop.stopped != "timeout"
        and loop.recorder.executor.exact
        and all(objective.repeatable for objective in loop.goals.objectives.values()),
        "notes": outcome.notes,
        "cost": {
            "charged": cost_to_json(loop, loop.ledger.charged),
            "executed": cost_to_json(loop, executed(loop, statistics_run)),
            "seconds": sum(line.seconds for line in searched),
        },
        "charges": {part: cost_to_json(loop, cost) for part, cost in loop.ledger.parts.items()},
    }
