"""What an evaluator heals plans with: the healing of a run, bound to a model and the windows of the heal split."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import torch

from searcher.architecture.devices import check_float64
from searcher.architecture.packed_weights import refuse_packed
from searcher.contracts import registry
from searcher.contracts.cost import Prices
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError
from searcher.healing.calibration import CalibrationSet, Check, Meter
from searcher.healing.contract import Gaps, Healing, Scope
from searcher.healing.heal import Healed, heal_plan, most_work
from searcher.loading.heal_text import HealText
from searcher.replay.repair import Place, Repair, ReplacementModule
from searcher.replay.replay import Replay
from searcher.runs.notation import parse_spec

KEPT_REPAIRS = 16
"""Plans whose repairs are kept for their other groups of token sequences; an adapter is a small part of a model."""


class HealingStopped(Exception):  # noqa: N818 - control flow
    """A fit was given up because the run ends."""


@dataclass
class _Repairs:
    """Of plans that were healed as a whole, each once, whoever needs it first."""

    watch: Callable[[PrunePlan, Check], None] = lambda plan, check: None
    lock: threading.Lock = field(default_factory=threading.Lock)
    futures: OrderedDict[PrunePlan, "Future[Healed]"] = field(default_factory=OrderedDict)

    def claim(self, plan: PrunePlan) -> tuple["Future[Healed]", bool]:
        """The plan's repair, there or to come, and whether it is the caller's to make."""
        with self.lock:
            if plan in self.futures:
                return self.futures[plan], False
            future: Future[Healed] = Future()
            self.futures[plan] = future
            while len(self.futures) > KEPT_REPAIRS:
                self.futures.popitem(last=False)
            return future, True

    def forget(self, plan: PrunePlan) -> None:
        """Nobody is making the plan's repair any more."""
        with self.lock:
            self.futures.pop(plan, None)


def make_healing(spec: str) -> Healing:
    """The healing of a spec such as `lora:steps=200`.

    Raises:
        UsageError: there is no such healing, or its options do not fit.
    """
    healing: Healing = registry.make("healing", *parse_spec(spec))
    return healing


def check_healing(spec: str, replay: Replay) -> None:
    """Refuse a healing that needs plain weights where they are quantised, or all of them where they are streamed.

    Raises:
        UsageError: with the reason, and what to take instead.
    """
    healing = make_healing(spec)
    if replay.streamed and not healing.streams:
        raise UsageError(
            f"Healing '{spec}' needs all weights in memory, and these are streamed",
            "Heal by bias, linear or linear-folded, or use --weights resident where there is room",
        )
    if reason := healing.plain_weights:
        refuse_packed(
            replay.model,
            f"Healing by {spec}",
            reason,
            "Use bias, linear, ffn or swiglu, which only read hidden states, or leave --quantize out",
        )


def check_answers(specs: Sequence[str], say: Callable[[str], None]) -> None:
    """Say which healings learn from all tokens, though only those of answers were asked for.

    Raises:
        UsageError: all of them do.
    """
    others = [spec for spec in specs if not make_healing(spec).predicts]
    if len(others) == len(specs):
        raise UsageError(
            f"--heal-answers is for healings that learn to predict tokens, and '{others[0]}' fits hidden states",
            "Heal by lora, or leave --heal-answers out",
        )
    for spec in others:
        say(f"{spec} fits hidden states, of all tokens; that it helps is told by the answers alone")


def make_calibration(text: HealText, replay: Replay, prices: Prices) -> CalibrationSet:
    """The model with the windows of the heal split on its device.

    Raises:
        UsageError: a device of it has no float64, in which healings sum.
    """
    device = replay.model.device
    for place in replay.devices:
        check_float64(place, f"Healing '{text.spec}'")
    with torch.inference_mode(False):  # those that train cannot use tensors made for inference
        fit, held_out = text.fit.clone().to(device), text.held_out.clone().to(device)
        fit_scored, held_out_scored = (
            None if mask is None else mask.clone().to(device) for mask in (text.fit_scored, text.held_out_scored)
        )
    return CalibrationSet(
        replay,
        fit,
        held_out,
        prices,
        documents=text.documents,
        fit_scored=fit_scored,
        held_out_scored=held_out_scored,
    )


@dataclass(frozen=True, eq=False)
class Treatment:
    """How a run heals.

    Attributes:
        text: with what and on what.
        scope: what a repair depends on.
        work: what has been run before the first plan.
        most_work: for scope `plan`, the most that healing one runs; None where the healing does not tell.
    """

    text: HealText
    scope: Scope
    work: Meter
    most_work: Callable[[PrunePlan], Meter | None]


def begin_treatment(text: HealText, replay: Replay, prices: Prices, granularity: Granularity) -> Treatment:
    """Fit what is the same for all plans, which the replay then has after its blocks."""
    healer = Healer(text, replay, prices)
    if healer.scope == "unit":
        replay.after = healer.fit_units(granularity).after
    return Treatment(text, healer.scope, healer.take_work(), healer.most_work)


class Healer:
    """Heals plans for one evaluator; for use by one thread at a time, under `torch.inference_mode()`.

    Args:
        text: with what and on what.
        replay: of the evaluator.
        prices: for counting parts of blocks.
        limit: bytes that corrections of gaps may keep.
        repairs: shared by the evaluators of a process.
    """

    def __init__(
        self, text: HealText, replay: Replay, prices: Prices, limit: int = 0, repairs: _Repairs | None = None
    ) -> None:
        self.text, self._prices, self._limit = text, prices, limit
        self._replay = replay
        check_healing(text.spec, replay)
        self._healing = make_healing(text.spec)
        self._calibration = make_calibration(text, replay, prices)
        self._repairs = repairs or _Repairs()
        self._gaps: Gaps | None = None

    @property
    def scope(self) -> Scope:
        """What a repair depends on."""
        return self._healing.scope

    def colleague(self, replay: Replay) -> "Healer":
        """A healer for another evaluator."""
        return Healer(self.text, replay, self._prices, self._limit, self._repairs)

    def limited(self, limit: int) -> "Healer":
        """The same with another limit."""
        return Healer(self.text, self._replay, self._prices, limit, self._repairs)

    def fit_units(self, granularity: Granularity) -> Repair:
        """For scope `unit`: what stands after each block, once for all plans."""
        return self._healing.units(self._calibration, granularity)

    def replacements(self, plan: PrunePlan) -> Mapping[Place, ReplacementModule]:
        """For scope `plan`: what will stand after blocks once the plan is healed."""
        return self._healing.replacements(self._replay, plan)

    @property
    def gaps(self) -> Gaps:
        """For scope `gap`."""
        if self._gaps is None:
            self._gaps = self._healing.gaps(self._calibration, self._limit)
        return self._gaps

    def healed(self, plan: PrunePlan, going: Callable[[], bool] = lambda: True) -> Healed:
        """For scope `plan`, or where each plan is healed alone: what healing it has given.

        Args:
            plan: what is removed.
            going: asked now and then; when it says no, the fit is given up.

        Raises:
            HealingStopped: it was given up.
        """

        def go_on() -> None:
            if not going():
                raise HealingStopped

        future, mine = self._repairs.claim(plan)
        if not mine:
            return future.result()
        watched = replace(self._calibration, go_on=go_on, watch=lambda check: self._repairs.watch(plan, check))
        try:
            healed = heal_plan(self._healing, watched, plan)
        except BaseException as error:
            self._repairs.forget(plan)
            future.set_exception(error)
            raise
        self._calibration.meter.count(healed.work.layer_forwards, healed.work.heads)
        future.set_result(healed)
        return healed

    def most_work(self, plan: PrunePlan) -> Meter | None:
        """The most that :meth:`healed` runs for a plan; None where the healing does not tell."""
        return most_work(self._healing, self._calibration, plan)

    def remember(self, plan: PrunePlan, healed: Healed) -> None:
        """A plan has been healed before."""
        future, _ = self._repairs.claim(plan)
        future.set_result(healed)

    def watched_by(self, watch: Callable[[PrunePlan, Check], None]) -> None:
        """From now on tell this of every check of a fit, and those of the other healers of this process."""
        self._repairs.watch = watch

    def take_work(self) -> Meter:
        """What has been run since the last time."""
        meter = self._calibration.meter
        work = replace(meter)
        meter.layer_forwards = meter.heads = 0.0
        meter.tokens = 0
        return work
