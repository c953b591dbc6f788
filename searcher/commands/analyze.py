"""`searcher analyze`: the parts of an analysis, each kept in files as soon as it is there; the same command goes on."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from searcher.anatomy import contiguous, heads, influence, interactions, replacement, shapley, updates
from searcher.anatomy.losses import Losses
from searcher.anatomy.parts import PARTS
from searcher.architecture.devices import check_float64
from searcher.architecture.packed_weights import has_packed
from searcher.commands.preparation import make_objectives, prepare
from searcher.commands.prepared import Prepared
from searcher.commands.progress import Progress
from searcher.contracts.cost import Cost
from searcher.contracts.plan import Granularity, Unit, all_units
from searcher.contracts.statistics import NEED_PLAIN
from searcher.errors import UsageError
from searcher.loading.environment import environment
from searcher.replay.self_check import open_replay
from searcher.runs.arrays import read_arrays
from searcher.runs.config import MeasurementConfig
from searcher.runs.files import replacing
from searcher.runs.fingerprint import digest_of
from searcher.runs.identity import environment_changes
from searcher.runs.journal import Journal, read_json, write_json
from searcher.runs.measurement import Measurement, Measurements
from searcher.runs.versions import versions

ANALYSIS_FILE = "analysis.json"
FORMAT = 1
Done = Callable[[float], None]


class Result(Protocol):
    """What a part has found."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name, for files."""

    def facts(self) -> dict[str, Any]:
        """What is said about them, as JSON."""


@dataclass(frozen=True)
class Wanted:
    """What to analyze.

    Attributes:
        granularity: which units are compared with each other.
        parts: some of `PARTS`, in order.
        budget: plans that Shapley interactions may measure.
        index: `k-SII` or `FSII`.
    """

    granularity: Granularity = Granularity.BLOCK
    parts: tuple[str, ...] = PARTS[:-1]
    budget: int = 4096
    index: str = "k-SII"


@dataclass(frozen=True, eq=False)
class Bench:
    """What the parts are measured on.

    Attributes:
        prepared: model, windows and executor.
        units: of the granularity.
        losses: of plans on the search windows.
        journal: keeps what was measured.
        wanted: the options.
    """

    prepared: Prepared
    units: tuple[Unit, ...]
    losses: Losses
    journal: Journal
    wanted: Wanted

    @property
    def ids(self) -> torch.Tensor:
        """int64 (windows, tokens)."""
        return self.prepared.windows["search"]

    @cached_property
    def sublayers(self) -> tuple[Unit, ...]:
        """Attention and FFN of every block; the blocks where these cannot be told apart."""
        blocks = self.losses.num_blocks
        try:
            with torch.inference_mode():
                open_replay(self.prepared.model.model, Granularity.SUBLAYER)
        except UsageError:
            return all_units(blocks, Granularity.BLOCK)
        return all_units(blocks, Granularity.SUBLAYER)

    def keep(self, lines: Iterator[Measurement]) -> None:
        """Measure, and keep each line as soon as it is there."""
        for line in lines:
            self.journal.append(line)


def analyze(config: MeasurementConfig, wanted: Wanted, runs_dir: Path, name: str | None, progress: Progress) -> Path:
    """See `searcher.analyze`, which this is.

    Returns:
        The folder: `analysis.json`, and for each part its arrays (`.npz`) and what is said about them (`.json`).
    """
    for part in wanted.parts:
        if part not in PARTS:
            raise UsageError(f"Part '{part}' is not known", f"Choose some of {', '.join(PARTS)}")
    asked = _asked(config, wanted, runs_dir, name)
    config = config.model_copy(update={"objective": ("loss",), "workers": 0})
    config = config.model_copy(update={"weights": "resident"})  # its parts run blocks in any order
    prepared = prepare(config, make_objectives(config), wanted.granularity, progress.say)
    for device in prepared.replay.devices:
        check_float64(device, "An analysis")
    identity = _identity(prepared, wanted)
    folder = runs_dir / (name or f"analysis-{wanted.granularity}-{digest_of(identity)[:8]}")
    with Journal(folder) as journal, contextlib.closing(prepared.executor):
        record = _open_record(folder, prepared, asked, identity, wanted)
        known = Measurements(prepared.executor.layout)
        for line in journal.read():
            known.add(line)
        losses = Losses(prepared.executor, known, prepared.model.num_blocks, prepared.prices)
        units = all_units(prepared.model.num_blocks, wanted.granularity)
        bench = Bench(prepared, units, losses, journal, wanted)
        todo = [part for part in wanted.parts if not _is_whole(folder, part, progress)]
        _say_costs(bench, todo, progress)
        for part in todo:
            _measure(bench, part, folder, record, progress)
    return folder


def _is_whole(folder: Path, part: str, progress: Progress) -> bool:
    """Whether a part has been measured, and its files can be read."""
    if not (folder / f"{part}.json").exists():
        return False
    try:
        read_json(folder / f"{part}.json")
        read_arrays(folder / f"{part}.npz", "")
    except UsageError as error:
        progress.warn(f"{error.message}: {part} is measured again")
        return False
    return True


def _read_rows(folder: Path) -> dict[int, NDArray[Any]]:
    """The rows that were kept; one that cannot be read is measured again."""
    rows: dict[int, NDArray[Any]] = {}
    for path in folder.glob("*.npy"):
        with contextlib.suppress(UsageError):
            rows[int(path.stem)] = read_arrays(path, "")[path.stem]
    return rows


def _measure(bench: Bench, part: str, folder: Path, record: dict[str, Any], progress: Progress) -> None:
    """Measure a part and write its files; its facts come last, and say that it is whole."""
    started, cost = time.monotonic(), COSTS[part](bench)
    with progress.part(part) as done:
        result = MEASURES[part](bench, done)
    with replacing(folder / f"{part}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **result.arrays())  # type: ignore[arg-type]
    work = {"layer_forwards": cost.layer_forwards, "heads": cost.heads, "seconds": time.monotonic() - started}
    record["cost"][part] = work
    record["parts"] = [one for one in PARTS if one in record["cost"]]
    write_json(folder / ANALYSIS_FILE, record)
    write_json(folder / f"{part}.json", result.facts())


def _influence(bench: Bench, done: Done) -> Result:
    bench.keep(influence.measure_removals(bench.losses, bench.units, lambda share: done(share / 2)))
    replay = bench.prepared.replay
    return influence.measure_influence(
        replay, bench.ids, bench.units, bench.losses, _metrics(bench), done=lambda share: done(share / 2)
    )


def _metrics(bench: Bench) -> list[str]:
    """All but those that look at the weights themselves, where these are quantised."""
    left_out = NEED_PLAIN if has_packed(bench.prepared.replay.model) else ()
    return [name for name in influence.METRICS if name not in left_out]


def _replacement(bench: Bench, done: Done) -> Result:
    """Row by row, each kept: it takes minutes."""
    replay, folder = bench.prepared.replay, bench.journal.folder / "replacement-rows"
    folder.mkdir(exist_ok=True)
    rows = _read_rows(folder)
    misfits = replacement.find_misfits(replay, bench.ids)
    places = [place for place in range(replay.num_blocks) if place not in rows]
    for place, row in replacement.measure_rows(replay, bench.ids, misfits, places, done):
        rows[place] = row
        with replacing(folder / f"{place}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, row)
    return replacement.assemble(rows, misfits)


def _interactions(bench: Bench, done: Done) -> Result:
    bench.keep(interactions.measure_pairs(bench.losses, bench.units, done))
    return interactions.find_interactions(bench.losses, bench.units, bench.prepared.documents["search"])


def _shapley(bench: Bench, done: Done) -> Result:
    sampling = _sampling(bench)
    bench.keep(shapley.measure_coalitions(bench.losses, sampling, done))
    return shapley.find_shapley(bench.losses, sampling)


def _sampling(bench: Bench) -> shapley.Sampling:
    index: Any = bench.wanted.index
    return shapley.Sampling(bench.units, index, bench.wanted.budget)


MEASURES: dict[str, Callable[[Bench, Done], Result]] = {
    "influence": _influence,
    "updates": lambda b, done: updates.measure_updates(b.prepared.replay, b.ids, b.sublayers, done),
    "heads": lambda b, done: heads.measure_heads(b.prepared.replay, b.ids, done),
    "contiguous": lambda b, done: contiguous.measure_contiguous(b.prepared.replay, b.ids, done),
    "replacement": _replacement,
    "interactions": _interactions,
    "shapley": _shapley,
}
COSTS: dict[str, Callable[[Bench], Cost]] = {
    "influence": lambda b: influence.cost(b.losses, len(b.ids), b.units, _metrics(b)),
    "updates": lambda b: updates.cost(b.losses.num_blocks, len(b.ids), b.sublayers, b.prepared.prices),
    "heads": lambda b: heads.cost(b.losses.num_blocks, len(b.ids)),
    "contiguous": lambda b: contiguous.cost(b.losses.num_blocks, len(b.ids)),
    "replacement": lambda b: replacement.cost(b.losses.num_blocks, len(b.ids)),
    "interactions": lambda b: interactions.cost(b.losses, b.units),
    "shapley": lambda b: shapley.cost(b.losses, _sampling(b)),
}


def _say_costs(bench: Bench, parts: Sequence[str], progress: Progress) -> None:
    """What each part will run, before anything of it is."""
    for part in parts:
        cost = COSTS[part](bench)
        if part == "influence" and (left_out := set(influence.METRICS) - set(_metrics(bench))):
            progress.say(f"influence: without {' and '.join(sorted(left_out))}, which quantised weights do not have")
        progress.say(f"{part}: {cost.layer_forwards:,.0f} layer-forwards and {cost.heads:,.0f} heads over a window")


def _identity(prepared: Prepared, wanted: Wanted) -> dict[str, Any]:
    names = ("dtype", "device_type", "windows", "window_tokens", "data_seed")
    return {
        **{name: prepared.resolved[name] for name in names},
        **({"packed": prepared.model.packed} if prepared.model.packed else {}),
        "model_fingerprint": prepared.model.fingerprint,
        "text_fingerprint": prepared.text.fingerprint,
        "granularity": str(wanted.granularity),
        "shapley": [wanted.budget, wanted.index],
    }


def _asked(config: MeasurementConfig, wanted: Wanted, runs_dir: Path, name: str | None) -> dict[str, Any]:
    """Every option that is not the default, by its name on the command line; parts are recorded when they are there."""
    given = {**vars(wanted), "name": name, "runs_dir": str(runs_dir)}
    defaults = {**vars(Wanted()), "name": None, "runs_dir": "runs"}
    chosen = {option: value for option, value in given.items() if option != "parts" and value != defaults[option]}
    return config.model_dump(mode="json", exclude_defaults=True, exclude_none=True) | chosen


def _open_record(
    folder: Path, prepared: Prepared, asked: dict[str, Any], identity: dict[str, Any], wanted: Wanted
) -> dict[str, Any]:
    """The record of an analysis, with what is known of parts that were measured before.

    Raises:
        UsageError: the folder holds an analysis of something else, or of another format; or parts are missing, and
            those there were measured with other versions or on another processor.
    """
    path = folder / ANALYSIS_FILE
    before: dict[str, Any] = read_json(path) if path.exists() else {"format": FORMAT, "identity": identity}
    if before.get("format") != FORMAT:
        raise UsageError(f"{folder} was written in format {before.get('format')}, not {FORMAT}", "Use another --name")
    for field, value in identity.items():
        if before.get("identity", {}).get(field) != value:
            raise UsageError(f"{folder} holds an analysis of another {field}", "Use another --name")
    here = environment(prepared.model.device)
    if changes := environment_changes(before, here) if path.exists() else []:
        if not set(wanted.parts) <= set(before.get("parts", [])):
            raise UsageError(
                f"{folder} cannot be gone on with: {'; '.join(changes)}",
                "Its numbers and new ones would not be the same: use another --name",
            )
        return before
    record: dict[str, Any] = {
        "format": FORMAT,
        "config": asked,
        "identity": identity,
        "environment": here,
        "model": prepared.model.name,
        "text": prepared.text.name,
        "num_blocks": prepared.model.num_blocks,
        "windows": len(prepared.windows["search"]),
        "window_tokens": prepared.resolved["window_tokens"],
        "documents": list(prepared.documents["search"]),
        "granularity": identity["granularity"],
        "parts": before.get("parts", []),
        "cost": before.get("cost", {}),
        "versions": versions(),
    }
    write_json(path, record)
    return record
