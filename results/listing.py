"""What there is: strategies, objectives and runs."""

import inspect
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from searcher import registry
from searcher.errors import UsageError
from searcher.journal import RUN_FILE, read_json


def plugin_lines(kind: registry.Kind, verbose: bool) -> Iterator[Table | str]:
    """The strategies or objectives, a line each; verbose: their whole documentation and options."""
    if not verbose:
        table = Table(box=None, show_header=False, pad_edge=False)
        for name in registry.names(kind):
            table.add_row(f"[b]{name}[/b]", (inspect.getdoc(registry.find(kind, name)) or "").split("\n")[0])
        yield table
        return
    for name, place in registry.names(kind).items():
        cls = registry.find(kind, name)
        yield f"[b]{name}[/b]  ({place})"
        yield _indented(inspect.getdoc(cls) or "")
        for option in registry.options(cls):
            yield f"    --{kind}-arg {option.name}=…  {option.type}, default {option.default}".replace("[", r"\[")
        yield ""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.replace("[", r"\[").splitlines())


def run_lines(runs_dir: Path) -> Iterator[Table | str]:
    """The runs below a folder, with the plan each ended with."""
    folders = sorted(path.parent for path in runs_dir.glob(f"*/{RUN_FILE}"))
    if not folders:
        yield f"No runs in {runs_dir}"
        return
    table = Table("run", "model", "strategy", "budget", "plan", box=None, pad_edge=False)
    for folder in folders:
        try:
            record = read_json(folder / RUN_FILE)
            config, outcome = record["config"], record.get("outcome")
            plan = outcome["chosen"].get(str(outcome["size"]), "-") if outcome else "not finished"
            table.add_row(folder.name, record["model"], config["strategy"], config["budget"], plan)
        except (UsageError, KeyError) as error:
            table.add_row(folder.name, f"damaged: {error}")
    yield table
