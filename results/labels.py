"""What runs are called beside each other, and the words for what they share."""

from collections.abc import Callable, Sequence

from results.finished_run import FinishedRun
from results.precision import precision


def run_labels(runs: Sequence[FinishedRun]) -> tuple[str, ...]:
    """A short name for each run, all different: its strategy if that tells them apart, else more, else its folder."""
    namings: tuple[Callable[[FinishedRun], str], ...] = (
        lambda run: _strategy(run),
        lambda run: f"{_strategy(run)} of {run.record['identity']['windows']} windows",
        lambda run: f"{_strategy(run)} of data seed {run.record['identity']['data_seed']}",
        lambda run: f"{_strategy(run)} {run.config.granularity}",
        lambda run: f"{_strategy(run)} {run.config.granularity} {run.config.budget}",
        lambda run: run.folder.name,
        lambda run: str(run.folder),
    )
    for naming in namings:
        names = tuple(map(naming, runs))
        if len(set(names)) == len(names):
            return names
    return tuple(f"{run.folder} ({number})" for number, run in enumerate(runs, start=1))  # the same folder twice


def _strategy(run: FinishedRun) -> str:
    """The strategy's name, without the path of the user's file."""
    return run.config.strategy.rpartition(":")[2]


def setting(run: FinishedRun) -> str:
    """Which model was measured on which text."""
    return f"{run.record['model']} in {precision(run.record['identity'])} on {run.record['text']}"


def windows(run: FinishedRun, split: str) -> str:
    """How much text of a split was measured: `32 report windows of 128 tokens`."""
    identity = run.record["identity"]
    number = identity["windows"] if split == "search" else identity["report_windows"]
    return f"{number} {split} windows of {identity['window_tokens']} tokens"


def search_windows(runs: Sequence[FinishedRun]) -> str:
    """The windows that runs chose their plans on: one text if they are the same number for all."""
    found = list(dict.fromkeys(windows(run, "search") for run in runs))
    return found[0] if len(found) == 1 else "the run's own search windows"


def units(granularity: str, number: int = 2) -> str:
    """The units of a granularity in words, in the plural unless there is just one."""
    word = {"block": "block", "attention": "attention sublayer", "ffn": "FFN sublayer", "sublayer": "sublayer"}
    return word[granularity] + ("s" if number != 1 else "")
