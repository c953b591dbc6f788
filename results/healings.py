"""What healing has given: the table and the JSON document of `searcher heal`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from results.healed_values import ReportValues
from results.table import number

if TYPE_CHECKING:
    from searcher.healing.outcome import HealedPlan, Healings

OTHERS = ("held-out loss", "tokens trained on", "layer-forwards", "seconds", "adds")


def healings_document(found: "Healings") -> dict[str, Any]:
    """The JSON document: every value with its 95% interval on the report split, with several texts also by text."""
    values = _values(found)
    return {
        "model": found.model,
        "text": found.text,
        "heal_text": found.heal_text,
        "plan": str(found.plan),
        "heal_windows": found.windows,
        "window_tokens": found.window_tokens,
        **_unhealed_to_json(found, values),
        "healings": [_healing_to_json(values, one) | _fit_to_json(one) for one in found.healed],
    } | ({"report_by_text": list(_by_text_to_json(found))} if found.texts else {})


def _values(found: "Healings", places: NDArray[np.int64] | None = None) -> ReportValues:
    return ReportValues(found.objectives, found.documents, places)


def _by_text_to_json(found: "Healings") -> Iterator[dict[str, Any]]:
    for name, places in _texts(found):
        values = _values(found, places)
        yield {
            "text": name,
            "windows": len(places),
            **_unhealed_to_json(found, values),
            "healings": [_healing_to_json(values, one) for one in found.healed],
        }


def _texts(found: "Healings") -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Each of several texts with the places of its report windows."""
    numbers = np.array(found.texts, dtype=np.int64)
    for place, name in enumerate(found.text_names if found.texts else ()):
        yield name, np.flatnonzero(numbers == place)


def healings_lines(found: "Healings") -> Iterator[Table | str]:
    """The table: the plan before and after each healing, and the dense model healed the same way."""
    yield escape(f"{found.model} on {found.text}, plan {found.plan}")
    yield _table(found)
    if found.texts:
        yield _text_table(found)
    yield (
        "What brings a plan nearer to the dense model healed the same way, the ratio 'to that', is the mending; the "
        "rest is that the model gets used to the text."
    )
    yield escape(
        f"Fitted on {found.windows} windows of {found.window_tokens} tokens of the heal split of {found.heal_text}, of "
        "which a fifth was held out; all read the same ones."
    )
    if fitted := [one.spec for one in found.healed if one.plan.in_sample]:
        yield escape(f"* {', '.join(fitted)}: fitted to the held-out windows too, once the penalty was chosen by them.")
    for one in found.healed:
        if one.plan.failure:
            yield escape(f"{one.spec} has not healed the plan: {one.plan.failure}")
        elif one.plan.dropped:
            yield escape(f"{one.spec} did not help on the held-out windows, and was dropped.")


def _table(found: "Healings") -> Table:
    values, table = _values(found), Table()
    table.add_column("healing")
    for header in (*values.headers(), *OTHERS):
        table.add_column(header, justify="right")
    table.add_row("none", *values.cells(found.before, found.dense), *[""] * len(OTHERS))
    for one in found.healed:
        table.add_row(
            escape(one.spec),
            *values.cells(one.rows, one.control_rows),
            f"{number(one.plan.before)} to {number(one.plan.after)}{' *' if one.plan.in_sample else ''}",
            f"{one.plan.work.tokens:,}" if one.plan.work.tokens else "",
            f"{one.plan.work.layer_forwards:,.0f}",
            f"{one.plan.seconds:.0f}",
            f"{number(one.plan.repair.parameters)} parameters" if one.plan.repair.parameters else "",
        )
    return table


def _text_table(found: "Healings") -> Table:
    """The same values on the report windows of each text."""
    table = Table(title="By text, on its report windows", title_justify="left")
    for header in ("text", "healing"):
        table.add_column(header, overflow="fold")
    for name, places in _texts(found):
        values = _values(found, places)
        if len(table.columns) == 2:
            for header in values.headers():
                table.add_column(header, justify="right")
        table.add_row(escape(name), "none", *values.cells(found.before, found.dense))
        for one in found.healed:
            table.add_row("", escape(one.spec), *values.cells(one.rows, one.control_rows))
        table.add_section()
    return table


def _unhealed_to_json(found: "Healings", values: ReportValues) -> dict[str, Any]:
    return {
        "dense": _plain(values, found.dense),
        "before": _plain(values, found.before),
        "before_to_dense": values.ratios(found.before, found.dense),
    }


def _healing_to_json(values: ReportValues, one: "HealedPlan") -> dict[str, Any]:
    return {
        "heal": one.spec,
        "report": _plain(values, one.rows),
        "control": _plain(values, one.control_rows),
        "to_control": values.ratios(one.rows, one.control_rows),
    }


def _plain(values: ReportValues, rows: Any) -> dict[str, Any]:
    return {label: vars(estimate) for label, estimate in values.estimates(rows).items()}


def _fit_to_json(one: "HealedPlan") -> dict[str, Any]:
    return {
        "held_out": {"before": one.plan.before, "after": one.plan.after, "fitted": one.plan.in_sample},
        "dropped": one.plan.dropped,
        "failure": one.plan.failure,
        "trained_tokens": one.plan.work.tokens,
        "layer_forwards": one.plan.work.layer_forwards,
        "heads": one.plan.work.heads,
        "seconds": one.plan.seconds,
        "parameters_added": one.plan.repair.parameters,
    }
