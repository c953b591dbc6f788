"""What healing has given: the table and the JSON document of `searcher heal`."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from results.finished_run import Estimate
from results.intervals import interval
from results.table import estimate, number

if TYPE_CHECKING:
    from searcher.healing.outcome import HealedPlan, Healings, Rows


def healings_document(found: "Healings") -> dict[str, Any]:
    """The JSON document: every value with its 95% interval on the report split."""
    return {
        "model": found.model,
        "text": found.text,
        "plan": str(found.plan),
        "heal_windows": found.windows,
        "window_tokens": found.window_tokens,
        "dense": _to_json(found, found.dense),
        "before": _to_json(found, found.before),
        "before_to_dense": _ratios(found, found.before, found.dense),
        "healings": [_healing_to_json(found, one) for one in found.healed],
    }


def healings_lines(found: "Healings") -> Iterator[Table | str]:
    """The table: the plan before and after each healing, and the dense model healed the same way."""
    yield escape(f"{found.model} on {found.text}, plan {found.plan}")
    table = Table()
    table.add_column("healing")
    for name in found.objectives:
        table.add_column(f"report {name} (95% interval)", justify="right")
        table.add_column(f"dense {name}, healed the same", justify="right")
        table.add_column("to that", justify="right")
    for column in ("held-out loss", "tokens trained on", "layer-forwards", "seconds", "adds"):
        table.add_column(column, justify="right")
    table.add_row("none", *_cells(found, found.before, found.dense), *[""] * 5)
    for one in found.healed:
        work = (f"{one.plan.work.tokens:,}" if one.plan.work.tokens else "", f"{one.plan.work.layer_forwards:,.0f}")
        table.add_row(
            one.spec,
            *_cells(found, one.rows, one.control_rows),
            f"{number(one.plan.before)} to {number(one.plan.after)}",
            *work,
            f"{one.plan.seconds:.0f}",
            f"{number(one.plan.repair.parameters)} parameters" if one.plan.repair.parameters else "",
        )
    yield table
    yield (
        "What brings a plan nearer to the dense model healed the same way, the ratio 'to that', is the mending; the "
        "rest is that the model gets used to the text."
    )
    yield (
        f"Fitted on {found.windows} windows of {found.window_tokens} tokens of the heal split, of which a fifth was "
        "held out; all read the same ones."
    )
    for one in found.healed:
        if one.plan.failure:
            yield escape(f"{one.spec} has not healed the plan: {one.plan.failure}")
        elif one.plan.dropped:
            yield escape(f"{one.spec} did not help on the held-out windows, and was dropped.")


def _cells(found: "Healings", rows: "Rows", control: "Rows") -> Iterator[str]:
    ratios = _ratios(found, rows, control)
    for name, objective in found.objectives.items():
        yield estimate(_estimate(found, rows, name))
        yield number(objective.value(control[name]))
        yield "-" if (ratio := ratios[name]) is None else f"{ratio:.2f}x"


def _ratios(found: "Healings", rows: "Rows", control: "Rows") -> dict[str, float | None]:
    """Of each objective, the plan's value to that of the dense model; None where that is no number."""
    values = {n: (o.value(rows[n]), o.value(control[n])) for n, o in found.objectives.items()}
    ratios = {name: of_plan / dense if dense else math.nan for name, (of_plan, dense) in values.items()}
    return {name: ratio if math.isfinite(ratio) else None for name, ratio in ratios.items()}


def _estimate(found: "Healings", rows: "Rows", name: str) -> Estimate:
    objective = found.objectives[name]
    documents = list(found.documents) if objective.reads == "windows" else None
    return Estimate(objective.value(rows[name]), *interval(objective, rows[name], documents))


def _to_json(found: "Healings", rows: "Rows") -> dict[str, Any]:
    return {name: vars(_estimate(found, rows, name)) for name in found.objectives}


def _healing_to_json(found: "Healings", one: "HealedPlan") -> dict[str, Any]:
    return {
        "heal": one.spec,
        "report": _to_json(found, one.rows),
        "control": _to_json(found, one.control_rows),
        "to_control": _ratios(found, one.rows, one.control_rows),
        "held_out": {"before": one.plan.before, "after": one.plan.after},
        "dropped": one.plan.dropped,
        "failure": one.plan.failure,
        "trained_tokens": one.plan.work.tokens,
        "layer_forwards": one.plan.work.layer_forwards,
        "heads": one.plan.work.heads,
        "seconds": one.plan.seconds,
        "parameters_added": one.plan.repair.parameters,
    }
