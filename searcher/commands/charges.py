"""What a run is charged beside its plans, what it has run, and both for its record."""

from collections.abc import Iterable, Sequence
from typing import Any

from searcher.commands.prepared import Prepared
from searcher.contracts.cost import Cost
from searcher.contracts.forecast import Forecast
from searcher.contracts.ledger import Ledger, Limits
from searcher.contracts.objective import HEALED, Split
from searcher.contracts.plan import DENSE, PrunePlan
from searcher.contracts.space import Space
from searcher.contracts.statistics import cost_of
from searcher.errors import UsageError
from searcher.healing.contract import Healing
from searcher.runs.config import RunConfig
from searcher.runs.measurement import NOTHING, Measurement, Work
from searcher.search.halving import Lists, Price, make_rounds, steps_of
from searcher.search.loop import SearchLoop
from searcher.search.recorder import Recorder
from searcher.search.shortlist import SHARE, RoundEnd, healing_work, keep_back

SEARCHED: tuple[Split, ...] = ("search", "screen")
"""The splits that are measured for the search; the second only with screening."""


def open_ledger(
    config: RunConfig, prepared: Prepared, recorder: Recorder, statistics: Sequence[str], space: Space
) -> Ledger:
    """The ledger, charged for all that comes before the first plan, and with what healing a shortlist takes kept back.

    It must have room for one plan at least.

    Args:
        config: with the limits.
        prepared: model and text.
        recorder: has measured the dense model.
        statistics: those that the strategy reads.
        space: of the search.

    Raises:
        UsageError: a limit is too low for that.
    """
    dense = [line for line in recorder.lines if line.split in SEARCHED and line.plan == DENSE]
    ledger = Ledger(prepared.tariff(dense), Limits(config.max_evaluations, config.max_cost))
    preparing = _sum(line.preparing for line in dense)
    ledger.charge_work("preparing", preparing.layer_forwards, preparing.heads)
    ledger.charge_statistics(*cost_of(statistics, space.units, ledger.tariff.num_blocks, ledger.tariff.prices.weight))
    if prepared.treatment is not None:
        ledger.charge_work("healing", prepared.treatment.work.layer_forwards, prepared.treatment.work.heads)
        if prepared.of_shortlist is not None:
            rounds = make_rounds(config.heal_rounds)
            keep_back(ledger, space, config.heal_top, rounds, healing_price(prepared, ledger))
    _check_room(ledger)
    return ledger


def for_search(ledger: Ledger, expected: Forecast) -> float:
    """The share of a timeout that is the search's; the rest is kept back for healing a shortlist."""
    total = ledger.tariff.total(expected.cost)
    return max(SHARE, 1 - ledger.tariff.total(ledger.kept_back) / total) if total else 1.0


def healing_price(prepared: Prepared, ledger: Ledger) -> Price:
    """What healing a plan with a share of the steps is charged: the most that its fit runs, and one plan measured."""
    treatment, tariff = prepared.of_shortlist, ledger.tariff
    assert treatment is not None, "only a run that heals has such a price"

    def price(plan: PrunePlan, share: float) -> Cost | None:
        work = treatment.most_work(plan, share)
        measured = tariff.ask([plan], tariff.windows, own=True)
        if work is None:
            return None
        return tariff.worth(Cost(layer_forwards=work.layer_forwards, heads=work.heads)) + measured

    return price


def rounds_to_json(loop: SearchLoop, healing: Healing, ends: Sequence[RoundEnd]) -> list[dict[str, Any]]:
    """How rounds of healing ended, as the record has it.

    Args:
        loop: of the search, which is over.
        healing: of the run.
        ends: of the rounds that healed any plan, the last of them with all its steps.
    """
    return [
        {
            "split": end.round.split,
            "share": end.round.share,
            "steps": steps_of(healing, end.round.share),
            "healed": _lists_to_json(end.healed),
            "dropped": _lists_to_json(end.dropped),
            "charged": cost_to_json(loop, end.charged),
            "run": healing_work(loop.recorder.lines, end.round.split),
        }
        for end in ends
    ]


def _lists_to_json(lists: Lists) -> dict[str, list[str]]:
    return {str(size): list(map(str, plans)) for size, plans in lists.items()}


def _check_room(ledger: Ledger) -> None:
    passed = ledger.limit_passed_by([], spare=1)
    if not passed:
        return
    tariff, before = ledger.tariff, ledger.charged
    one = tariff.total(tariff.ask([DENSE], tariff.windows, own=True))
    told = f"A plan is 1 evaluation and costs up to {one:.3g}"
    if names := [part for part, cost in ledger.parts.items() if tariff.total(cost)]:
        told += f"; {' and '.join(names)} before it, {before.evaluations:.3g} and {tariff.total(before):.3g}"
    if after := tariff.total(ledger.kept_back):
        told += f"; healing the control and a plan, {ledger.kept_back.evaluations:.3g} and {after:.3g}"
    raise UsageError(f"Not even one plan fits the {passed}", f"{told}: raise --max-evaluations or --max-cost")


def executed(loop: SearchLoop, statistics: Sequence[str]) -> Cost:
    """What was run for all that was charged, by this process and those before it.

    Args:
        loop: of the search, which is over.
        statistics: those that were measured; others were known from other runs.
    """
    tariff, parts = loop.ledger.tariff, loop.ledger.parts
    own = [line for line in loop.recorder.lines if line.split in SEARCHED and not line.run]
    paid = paid_lines(loop, own)
    screened = _sum(_work(line) for line in paid if line.split == "screen")
    beside = screened + _sum(line.prepared for line in own)
    measured = [line for line in paid if line.split == "search"]
    healed = _sum(_work(line) for line in loop.recorder.lines if HEALED.get(line.split) == "search" and not line.run)
    rows, work = sum(group.rows for group in loop.recorder.executor.layout["search"]), _sum(map(_work, measured))
    evaluations = round(sum(len(line.rows) for line in measured) / rows, 6)
    return (
        Cost(evaluations, work.layer_forwards, work.heads)
        + tariff.worth(Cost(layer_forwards=beside.layer_forwards, heads=beside.heads))
        + tariff.worth(Cost(layer_forwards=healed.layer_forwards, heads=healed.heads))
        + tariff.worth(_of_statistics(loop, statistics))
        + parts.get("healing", Cost())
    )


def _of_statistics(loop: SearchLoop, names: Sequence[str]) -> Cost:
    tariff = loop.ledger.tariff
    forwards, heads = cost_of(names, loop.space.units, tariff.num_blocks, tariff.prices.weight)
    return Cost(layer_forwards=forwards * tariff.windows, heads=heads * tariff.windows)


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
