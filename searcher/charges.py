"""What a run is charged beside its plans, what it has run, and both for its record."""

from collections.abc import Iterable, Sequence

from searcher.config import RunConfig
from searcher.cost import Cost, Ledger, Limits
from searcher.errors import UsageError
from searcher.measurement import NOTHING, Measurement, Work
from searcher.objective import Split
from searcher.plan import PrunePlan, Unit
from searcher.preparation import Prepared
from searcher.search_loop import Recorder, SearchLoop
from searcher.statistics import cost_of

DENSE = PrunePlan()
SEARCHED: tuple[Split, ...] = ("search", "screen")
"""The splits that are measured for the search; the second only with screening."""


def open_ledger(
    config: RunConfig, prepared: Prepared, recorder: Recorder, statistics: Sequence[str], units: Sequence[Unit]
) -> Ledger:
    """The ledger, charged for all that comes before the first plan; it must have room for one plan at least.

    Args:
        config: with the limits.
        prepared: model and text.
        recorder: has measured the dense model.
        statistics: those that the strategy reads.
        units: whose.

    Raises:
        UsageError: a limit is too low for that.
    """
    dense = [line for line in recorder.lines if line.split in SEARCHED and line.plan == DENSE]
    ledger = Ledger(prepared.tariff(dense), Limits(config.max_evaluations, config.max_cost))
    preparing = _sum(line.preparing for line in dense)
    ledger.charge_work("preparing", preparing.layer_forwards, preparing.heads)
    ledger.charge_statistics(*cost_of(statistics, units, ledger.tariff.num_blocks, ledger.tariff.prices.weight))
    if prepared.treatment is not None:
        ledger.charge_work("healing", prepared.treatment.work.layer_forwards, prepared.treatment.work.heads)
    _check_room(ledger)
    return ledger


def _check_room(ledger: Ledger) -> None:
    passed = ledger.limit_passed_by([], spare=1)
    if not passed:
        return
    tariff, before = ledger.tariff, ledger.charged
    one = tariff.total(tariff.ask([DENSE], tariff.windows, own=True))
    told = f"A plan is 1 evaluation and costs up to {one:.3g}"
    if names := [part for part, cost in ledger.parts.items() if tariff.total(cost)]:
        told += f"; {' and '.join(names)} before it, {before.evaluations:.3g} and {tariff.total(before):.3g}"
    raise UsageError(f"Not even one plan fits the {passed}", f"{told}: raise --max-evaluations or --max-cost")


def executed(loop: SearchLoop) -> Cost:
    """What was run for all that was charged, by this process and those before it."""
    tariff, parts = loop.ledger.tariff, loop.ledger.parts
    own = [line for line in loop.recorder.lines if line.split in SEARCHED and not line.run]
    paid = paid_lines(loop, own)
    screened = _sum(_work(line) for line in paid if line.split == "screen")
    beside = screened + _sum(line.prepared for line in own)
    measured = [line for line in paid if line.split == "search"]
    rows, work = sum(group.rows for group in loop.recorder.crew.layout["search"]), _sum(map(_work, measured))
    evaluations = round(sum(len(line.rows) for line in measured) / rows, 6)
    return (
        Cost(evaluations, work.layer_forwards, work.heads)
        + tariff.worth(Cost(layer_forwards=beside.layer_forwards, heads=beside.heads))
        + parts.get("statistics", Cost())
        + parts.get("healing", Cost())
    )


def paid_lines(loop: SearchLoop, lines: Iterable[Measurement]) -> list[Measurement]:
    """Those of plans that the search was charged for; the dense model is measured whether it asks or not."""
    return [line for line in lines if loop.ledger.paid(line.plan, (), line.split == "screen")]


def cost_to_json(loop: SearchLoop, cost: Cost) -> dict[str, float]:
    """A cost as the record has it."""
    return {
        "evaluations": cost.evaluations,
        "layer_forwards": cost.layer_forwards,
        "heads": cost.heads,
        "total": loop.ledger.tariff.total(cost),
    }


def _work(line: Measurement) -> Work:
    return Work(line.layer_forwards, line.heads)


def _sum(works: Iterable[Work]) -> Work:
    return sum(works, NOTHING)
