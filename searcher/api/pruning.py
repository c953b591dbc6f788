"""Pruned models: `searcher.heal`, `export`, `best_model`, `load`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searcher.api.origin import opened_runs, planned
from searcher.api.unused_options import check_options
from searcher.contracts.own_packages import check_own_packages
from searcher.errors import UsageError

if TYPE_CHECKING:
    from results.run import Run
    from searcher.checkpoint.exported import Exported
    from searcher.contracts.form import Form
    from searcher.healing.outcome import Healings


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
    from searcher.runs.config import MeasurementConfig
    from searcher.runs.options import make_config

    check_options("heal", options)
    removed, options, beside, origin = planned(run, plan, size, options)
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
    """Write a pruned model as a checkpoint, compared with the model before it gets its name.

    A plan of whole blocks that is not healed is copied from the files of the model, which is not loaded.

    Args:
        run: a finished run or its folder, whose chosen plan is exported; None with `plan`.
        folder: of the new checkpoint; it is there whole in the end, or not at all.
        plan: a plan by hand, such as `"3-5,9"`.
        size: which of the run's chosen plans; by default that of the full size.
        heal: how to heal it first, such as `"lora:steps=200"`; by default as the run did, if it did.
        form: `stock`, `zeroed` or `custom`; by default `stock` where that can be.
        force: replace a checkpoint that is there.
        check: compare it with the original. What was copied is run only if it is small; all else is, which needs memory
            for the model in float32, twice.
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
    from searcher.commands.copying import export_copy, find_copy
    from searcher.commands.export import export as write
    from searcher.commands.opened import open_plan, with_plain_weights
    from searcher.commands.progress import Progress
    from searcher.contracts.form import Form
    from searcher.loading.model import STORED
    from searcher.runs.config import MeasurementConfig
    from searcher.runs.options import make_config

    if form is not None and form not in tuple(Form):
        raise UsageError(f"Form '{form}' is not known", f"Choose {', '.join(Form)}")
    wanted, dtype = None if form is None else Form(form), options.get("dtype")
    if dtype == "auto":  # what suits this machine is no matter of the checkpoint
        dtype = None
    if run is not None:  # which is healed in the dtype that it was measured in
        options = {name: value for name, value in options.items() if name != "dtype"}
    removed, options, beside, origin = planned(run, plan, size, options)
    config = make_config(MeasurementConfig, options)
    check_target(Path(folder), force, config.model)  # before a long healing
    config.check_healed(bool(heal or config.heal))
    _check_quantised_healing(config.quantize, config.heal, heal)
    spec, repairs = heal or config.heal, Path(runs_dir or beside)
    with Progress(quiet) as progress:
        plain, origin = with_plain_weights(config, origin, progress)
        copy = None if spec else find_copy(plain, removed, wanted, dtype, origin, progress)
        loaded = copy is None or (check and copy.small)
        opened = open_plan(plain, removed, spec, repairs, progress, origin, dtype or STORED, wanted) if loaded else None
        given = {"dtype": dtype, "runs-dir": None if runs_dir is None else str(runs_dir)}
        source = None if run is None else opened_runs([run])[0]
        name = opened.loaded.name if opened else copy.source.name if copy else ""
        card = card_of(source, removed, name, spec or "", config, given)
        if copy is not None:
            return export_copy(copy, opened, Path(folder), card, wanted, force, check, progress)
        assert opened is not None, "what cannot be copied was loaded"
        return write(opened, Path(folder), card, wanted, force, check, progress)


def _check_quantised_healing(quantize: str | None, healed: str | None, heal: str | None) -> None:
    """Refuse to write what a run fitted to quantised weights beside plain ones.

    Args:
        quantize: how the run quantised the weights, if it did.
        healed: how the run healed its plans.
        heal: how they are to be healed now, if that is said.
    """
    if quantize is not None and healed is not None and heal is None:
        raise UsageError(
            f"The run fitted its healing '{healed}' to weights in {quantize}, but those that are written are plain",
            f"Add --heal {healed} to fit it anew to the plain weights, or take the plan alone with --plan",
        )


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
    from searcher.runs.config import MeasurementConfig
    from searcher.runs.options import make_config

    removed, options, beside, origin = planned(run, plan, size, options)
    config = make_config(MeasurementConfig, options)
    config.check_healed(bool(heal or config.heal))
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
