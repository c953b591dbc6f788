"""searcher: search for prune plans of large language models.

    import searcher
    run = searcher.run(strategy="shapley", budget=8)
    run.best, run.front()

Nothing heavy is imported until a function is called.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searcher.cli.options import check_options
from searcher.contracts.own_packages import check_own_packages
from searcher.contracts.plan import Budget, Granularity, PrunePlan, Unit
from searcher.errors import UsageError

if TYPE_CHECKING:
    from results.comparison import Comparison
    from results.run import Run
    from searcher.checkpoint.exported import Exported
    from searcher.contracts.form import Form
    from searcher.healing.outcome import Healings
    from searcher.runs.identity import Origin

__all__ = [
    "Budget",
    "Granularity",
    "PrunePlan",
    "Unit",
    "UsageError",
    "analyze",
    "best_model",
    "compare",
    "evaluate",
    "export",
    "heal",
    "load",
    "load_run",
    "report",
    "run",
]


def run(*, quiet: bool = False, **options: Any) -> "Run":
    """Search for the plan to remove, or resume that search, and judge the outcome on unseen text.

    Args:
        quiet: show no progress on stderr.
        options: as on the command line, with underscores: `strategy="shapley", budget=8, objective=["perplexity"]`;
            see `searcher.runs.config.RunConfig` for all of them.

    Returns:
        The finished run: `run.best`, `run.front()`, `run.document()`.

    Raises:
        UsageError: an option is unknown or does not fit; the message says what to do.
    """
    check_own_packages()
    from searcher.commands.progress import Progress
    from searcher.commands.run import execute
    from searcher.runs.config import RunConfig, make_config

    config = make_config(RunConfig, options)
    with Progress(quiet) as progress:
        folder = execute(config, progress)
    finished = load_run(folder)
    finished.write_front()
    return finished


def load_run(folder: Any) -> "Run":
    """A finished run from its folder, without running anything.

    Raises:
        UsageError: the folder holds no finished run.
    """
    check_own_packages()
    from results.run import Run

    return Run(folder)


def compare(
    *runs: "str | Path | Run", objective: str | None = None, reference: str | Path | None = None
) -> "Comparison":
    """Set finished runs side by side: `searcher.compare("runs/greedy", "runs/shapley").table()`.

    Args:
        runs: two or more of one model and text; what :func:`run` returned, or their folders.
        objective: the one to compare by; by default the first that all have measured.
        reference: the run the others are compared with; by default that of strategy `greedy`, else the first.

    Returns:
        The comparison: `sections`, `document()`, `table()`.

    Raises:
        UsageError: a run is not finished, the runs measured something else, or one lacks what is asked for.
    """
    check_own_packages()
    from results.comparison import Comparison

    given = list({run.folder: run for run in _opened(runs)}.values())  # one named twice is listed once
    return Comparison(given, objective, None if reference is None else str(reference))


def report(
    runs: "Sequence[str | Path | Run]",
    path: str | Path = "report.html",
    *,
    objective: str | None = None,
    axes: str | None = None,
    pictures: str | Path | None = None,
) -> list[Path]:
    """Write pictures and tables of finished runs into one HTML file that needs nothing else to be read.

    Args:
        runs: of one model and text; what :func:`run` returned, or their folders.
        path: the file; an old one is replaced.
        objective: the one to show; by default the first.
        axes: x and y of the Pareto fronts, as `"kv-cache,perplexity"`: objectives, `size`, or what a plan leaves of
            the model.
        pictures: a folder in which to keep the pictures too, as PNG and SVG.

    Returns:
        The files written, the report first.

    Raises:
        UsageError: a run is not finished, the runs cannot stand beside each other, or one lacks what is asked for.
    """
    check_own_packages()
    from results.report import parse_axes, write_report

    across = None if axes is None else parse_axes(axes)
    return write_report(_opened(runs), Path(path), objective, across, None if pictures is None else Path(pictures))


def _opened(runs: "Sequence[str | Path | Run]") -> "list[Run]":
    from results.run import Run

    return [one if isinstance(one, Run) else Run(one) for one in runs]


def evaluate(plans: Sequence[str], *, split: str = "report", quiet: bool = False, **options: Any) -> dict[str, Any]:
    """Measure plans by hand, in the order asked.

    Args:
        plans: such as `"3-5,9"`, `"12.attn"`, `"dense"`.
        split: `report`, or `search`.
        quiet: show no progress on stderr.
        options: the measurement options of :func:`run`: model, data, windows, objective, …

    Returns:
        `{"evaluations": [{"plan", "size", "values": {objective: value}}]}`.

    Raises:
        UsageError: a plan or an option does not fit.
    """
    check_own_packages()
    from searcher.commands.evaluate import measure_plans
    from searcher.commands.progress import Progress
    from searcher.runs.config import MeasurementConfig, make_config

    config = make_config(MeasurementConfig, options)
    with Progress(quiet) as progress:
        return measure_plans(config, [PrunePlan.parse(plan) for plan in plans], split, progress).to_json()


def heal(
    run: "str | Path | Run | None" = None,
    *,
    plan: str | None = None,
    size: int | None = None,
    heal: Sequence[str] | str = (),
    runs_dir: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> "Healings":
    """Heal a plan in one or several ways, and measure it before and after on the report split.

    Args:
        run: a finished run or its folder, whose chosen plan is healed; model, text and objectives are the run's.
        plan: or a plan by hand, such as `"3-5,9"`.
        size: which of the run's chosen plans; by default that of the full size.
        heal: the healings, such as `"lora:steps=200"`; by default that of the run, or `lora`.
        runs_dir: where repairs are kept; by default beside the run, or in `runs`.
        quiet: show no progress on stderr.
        options: the measurement options of :func:`run`, but for those of search windows and of workers.

    Returns:
        Values before and after each healing, and of the dense model healed the same way.

    Raises:
        UsageError: a plan, healing or option does not fit.
    """
    check_own_packages()
    from searcher.commands.heal import heal_in_ways
    from searcher.commands.progress import Progress
    from searcher.runs.config import MeasurementConfig, make_config

    check_options("heal", options)
    removed, options, beside, origin = _planned(run, plan, size, options)
    specs = [heal] if isinstance(heal, str) else list(heal)
    specs = specs or [options.get("heal") or "lora"]
    config = make_config(MeasurementConfig, options)
    with Progress(quiet) as progress:
        return heal_in_ways(config, removed, specs, Path(runs_dir or beside), progress, origin)


def export(
    run: "str | Path | Run | None",
    folder: str | Path,
    *,
    plan: str | None = None,
    size: int | None = None,
    heal: str | None = None,
    form: "Form | str | None" = None,
    force: bool = False,
    check: bool = True,
    runs_dir: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> "Exported":
    """Write a pruned model as a checkpoint, verified by a fresh process that loads it again.

    Args:
        run: a finished run or its folder, whose chosen plan is exported; None with `plan`.
        folder: of the new checkpoint; it is there whole in the end, or not at all.
        plan: a plan by hand, such as `"3-5,9"`.
        size: which of the run's chosen plans; by default that of the full size.
        heal: how to heal it first, such as `"lora:steps=200"`; by default as the run did, if it did.
        form: `stock`, `zeroed` or `custom`; by default `stock` where that can be.
        force: replace a checkpoint that is there.
        check: load it again and compare it; needs memory for the model in float32, twice.
        runs_dir: where repairs are kept; by default beside the run, or in `runs`.
        quiet: show no progress on stderr.
        options: model, data and the like, as for :func:`run`; `dtype` is that of the weights that are written, by
            default that of the checkpoint that is pruned.

    Returns:
        Where it is, in which form, and what it takes.

    Raises:
        UsageError: a plan, folder, form, healing or option does not fit; or the disk is full.
    """
    check_own_packages()
    check_options("export", options)
    from results.card import card_of
    from searcher.checkpoint.target import check_target
    from searcher.commands.export import export as write
    from searcher.commands.opened import open_plan
    from searcher.commands.progress import Progress
    from searcher.contracts.form import Form
    from searcher.loading.model import STORED
    from searcher.runs.config import MeasurementConfig, make_config

    if form is not None and form not in tuple(Form):
        raise UsageError(f"Form '{form}' is not known", f"Choose {', '.join(Form)}")
    wanted, dtype = None if form is None else Form(form), options.get("dtype")
    if run is not None:  # which is healed in the dtype that it was measured in
        options = {name: value for name, value in options.items() if name != "dtype"}
    removed, options, beside, origin = _planned(run, plan, size, options)
    config = make_config(MeasurementConfig, options)
    check_target(Path(folder), force, config.model)  # before a long healing
    spec, repairs = heal or config.heal, Path(runs_dir or beside)
    with Progress(quiet) as progress:
        opened = open_plan(config, removed, spec, repairs, progress, origin, dtype or STORED, wanted)
        given = {"dtype": dtype, "runs-dir": None if runs_dir is None else str(runs_dir)}
        source = None if run is None else _opened([run])[0]
        card = card_of(source, removed, opened.loaded.name, spec or "", config, given)
        return write(opened, Path(folder), card, wanted, force, check, progress)


def analyze(
    *,
    parts: Sequence[str] | None = None,
    granularity: Granularity | str = Granularity.BLOCK,
    budget: int = 4096,
    index: str = "k-SII",
    name: str | None = None,
    runs_dir: str | Path = "runs",
    quiet: bool = False,
    **options: Any,
) -> Path:
    """Measure what the blocks of a model do, and keep it as arrays, pictures and a page; goes on where it was left.

    Args:
        parts: some of `searcher.anatomy.parts.PARTS`; by default all but `shapley`.
        granularity: units that are compared with each other.
        budget: plans that Shapley interactions may measure.
        index: `k-SII` or `FSII`.
        name: of the folder; by default made from the options.
        runs_dir: where the folder is.
        quiet: show no progress on stderr.
        options: model, data, windows and the like, as for :func:`run`.

    Returns:
        The folder. `analysis.html` in it shows all parts measured so far, `PART.npz`, `PART.png` and `PART.svg` hold
        the arrays and the picture of one.

    Raises:
        UsageError: a part or option does not fit, or a file of the folder is damaged.
    """
    check_own_packages()
    from results.anatomy import write_analysis_page
    from searcher.anatomy.parts import PARTS
    from searcher.commands.analyze import Wanted
    from searcher.commands.analyze import analyze as measure
    from searcher.commands.progress import Progress
    from searcher.runs.config import MeasurementConfig, make_config

    check_options("analyze", options)
    wanted = Wanted(Granularity(granularity), tuple(parts or PARTS[:-1]), budget, index)
    config = make_config(MeasurementConfig, options)
    with Progress(quiet) as progress:
        folder = measure(config, wanted, Path(runs_dir), name, progress)
        progress.say("Drawing")
        write_analysis_page(folder)
    return folder


def best_model(
    run: "str | Path | Run | None" = None,
    *,
    plan: str | None = None,
    size: int | None = None,
    heal: str | None = None,
    runs_dir: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> Any:
    """The pruned model of a run, or under a plan by hand, healed if asked: a transformers model, in memory.

    Args:
        run: a finished run or its folder; None with `plan`.
        plan: a plan by hand, such as `"3-5,9"`.
        size: which of the run's chosen plans; by default that of the full size.
        heal: how to heal it first, such as `"lora:steps=200"`; by default as the run did, if it did.
        runs_dir: where repairs are kept; by default beside the run, or in `runs`.
        quiet: show no progress on stderr.
        options: model, data and the like, as for :func:`run`.

    Raises:
        UsageError: a plan, healing or option does not fit.
    """
    check_own_packages()
    check_options("best_model", options)
    from searcher.commands.opened import open_plan, pruned_model
    from searcher.commands.progress import Progress
    from searcher.runs.config import MeasurementConfig, make_config

    removed, options, beside, origin = _planned(run, plan, size, options)
    config = make_config(MeasurementConfig, options)
    with Progress(quiet) as progress:
        spec, repairs = heal or config.heal, Path(runs_dir or beside)
        return pruned_model(open_plan(config, removed, spec, repairs, progress, origin))


def load(folder: str | Path, *, dtype: str = "auto", device: str = "cpu", trust_remote_code: bool = False) -> Any:
    """Load a checkpoint that `export` wrote, in whatever form: a transformers model in eval mode.

    Args:
        folder: of the checkpoint.
        dtype: `float32`, `bfloat16`, `float16`; `auto` is that of the checkpoint.
        device: where to.
        trust_remote_code: run modelling code that comes with the checkpoint.

    Raises:
        UsageError: the folder holds no checkpoint, or a damaged one.
    """
    check_own_packages()
    from searcher.checkpoint.load import load_checkpoint

    return load_checkpoint(Path(folder), dtype, device, trust_remote_code)


def _planned(
    run: "str | Path | Run | None", plan: str | None, size: int | None, options: dict[str, Any]
) -> "tuple[PrunePlan, dict[str, Any], Path, Origin | None]":
    """The plan of a run or one by hand, the options of measurement, the folder of runs, and the origin of the plan."""
    if (run is None) == (plan is None):
        raise UsageError("Give a run folder or a plan, one of them", "Such as runs/greedy, or --plan 3-5,9")
    if plan is not None:
        if size is not None:
            raise UsageError("--size chooses among the plans of a run, but a plan was given", "Leave it out")
        return PrunePlan.parse(plan), options, Path("runs"), None
    (opened,) = _opened([run])  # type: ignore[list-item]
    from searcher.runs.config import MeasurementConfig
    from searcher.runs.identity import origin_of

    measured = {name: value for name, value in opened.config.model_dump().items() if name in MeasurementConfig.kinds()}
    chosen = opened.chosen_of(size).plan
    origin = origin_of(opened.folder, opened.record, chosen, other_text=options.get("data") is not None)
    return chosen, measured | options, opened.folder.parent, origin
