"""What an evaluator heals plans with: the healing of a run, bound to a model and the windows of the heal split."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from searcher.architecture.devices import check_float64
from searcher.architecture.packed_weights import refuse_packed
from searcher.contracts import registry
from searcher.contracts.cost import Prices
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError
from searcher.healing.calibration import CalibrationSet, Check, Meter, keep_quiet
from searcher.healing.contract import Gaps, Healing, Scope
from searcher.healing.heal import Healed, heal_plan, most_work
from searcher.healing.unfinished import forget_fits
from searcher.loading.heal_text import HealText
from searcher.replay.repair import Place, Repair, ReplacementModule
from searcher.replay.replay import Replay, repaired
from searcher.runs.notation import parse_spec

KEPT_REPAIRS = 16
"""Plans whose repairs are kept for their other groups of token sequences; an adapter is a small part of a model."""


_Key = tuple[PrunePlan, float]
"""A plan, and the share of the healing's steps."""


class HealingStopped(Exception):  # noqa: N818 - control flow
    """A fit was given up because the run ends."""


@dataclass(frozen=True)
class HealingRoom:
    """What memory healing may take.

    Attributes:
        gaps: bytes that corrections of gaps may keep.
        fit: bytes that a fit may take; None for what is free by default.
    """

    gaps: int = 0
    fit: int | None = None


@dataclass
class _Repairs:
    """Of plans that were healed as a whole, each once, whoever needs it first."""

    watch: Callable[[PrunePlan, Check], None] = lambda plan, check: None
    say: Callable[[str], None] = keep_quiet
    unfinished: Callable[[PrunePlan], Path | None] = lambda plan: None
    lock: threading.Lock = field(default_factory=threading.Lock)
    futures: OrderedDict[_Key, "Future[Healed]"] = field(default_factory=OrderedDict)

    def claim(self, key: _Key) -> tuple["Future[Healed]", bool]:
        """The plan's repair, there or to come, and whether it is the caller's to make."""
        with self.lock:
            if key in self.futures:
                return self.futures[key], False
            future: Future[Healed] = Future()
            self.futures[key] = future
            while len(self.futures) > KEPT_REPAIRS:
                self.futures.popitem(last=False)
            return future, True

    def forget(self, key: _Key) -> None:
        """Nobody is making the plan's repair any more."""
        with self.lock:
            self.futures.pop(key, None)


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
            "Heal by bias, rescale, linear or linear-folded, or use --weights resident where there is room",
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


def make_calibration(
    text: HealText, replay: Replay, prices: Prices, room: HealingRoom = HealingRoom()
) -> CalibrationSet:
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
        room=room.fit,
        fit_scored=fit_scored,
        held_out_scored=held_out_scored,
    )


@dataclass(frozen=True, eq=False)
class Treatment:
    """How a run heals.

    Attributes:
        text: with what and on what.
        scope: what a repair depends on.
        rows: for scope `gap`, the windows that every plan is run on besides those it is measured on, which are charged.
        work: what has been run before the first plan.
        most_work: for scope `plan`, the most that healing one with a share of the steps runs; None where the healing
            does not tell.
    """

    text: HealText
    scope: Scope
    rows: float
    work: Meter
    most_work: Callable[[PrunePlan, float], Meter | None]


def begin_treatment(text: HealText, replay: Replay, prices: Prices, granularity: Granularity) -> Treatment:
    """Fit what is the same for all plans, which the replay then has after its blocks."""
    healer = Healer(text, replay, prices)
    healer.check()
    if healer.scope == "unit":
        replay.after = healer.fit_units(granularity).after
    return Treatment(text, healer.scope, healer.rows, healer.take_work(), healer.most_work)


class Healer:
    """Heals plans for one evaluator; for use by one thread at a time, under `torch.inference_mode()`.

    Args:
        text: with what and on what.
        replay: of the evaluator.
        prices: for counting parts of blocks.
        room: what memory it may take.
        repairs: shared by the evaluators of a process.
    """

    def __init__(
        self,
        text: HealText,
        replay: Replay,
        prices: Prices,
        room: HealingRoom = HealingRoom(),
        repairs: _Repairs | None = None,
    ) -> None:
        self.text, self._prices, self._room = text, prices, room
        self._replay = replay
        check_healing(text.spec, replay)
        self._healing = make_healing(text.spec)
        self._calibration = make_calibration(text, replay, prices, room)
        self._repairs = repairs or _Repairs()
        self._gaps: Gaps | None = None

    @property
    def scope(self) -> Scope:
        """What a repair depends on."""
        return self._healing.scope

    @property
    def rows(self) -> float:
        """For scope `gap`: the windows that every plan is run on besides those it is measured on; else 0."""
        return self._healing.rows(self._calibration) if self.scope == "gap" else 0.0

    def colleague(self, replay: Replay) -> "Healer":
        """A healer for another evaluator."""
        return Healer(self.text, replay, self._prices, self._room, self._repairs)

    def within(self, room: HealingRoom) -> "Healer":
        """The same with other room."""
        return Healer(self.text, self._replay, self._prices, room, self._repairs)

    def check(self) -> None:
        """Refuse a model of which no plan could be healed."""
        self._healing.check(self._calibration)

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
            self._gaps = self._healing.gaps(self._calibration, self._room.gaps)
        return self._gaps

    def healed(self, plan: PrunePlan, going: Callable[[], bool] = lambda: True, share: float = 1.0) -> Healed:
        """For scope `plan`, or where each plan is healed alone: what healing it has given.

        Args:
            plan: what is removed.
            going: asked now and then; when it says no, the fit is given up.
            share: of the healing's steps.

        Raises:
            HealingStopped: it was given up.
        """

        def go_on() -> None:
            if not going():
                raise HealingStopped

        future, mine = self._repairs.claim((plan, share))
        if not mine:
            return future.result()
        unfinished = self._repairs.unfinished(plan)
        if unfinished is not None and share != 1:
            unfinished = unfinished.with_name(f"{unfinished.name}, shortened to {share:g}")
        watched = replace(
            self._calibration,
            go_on=go_on,
            watch=lambda check: self._repairs.watch(plan, check),
            say=self._repairs.say,
            unfinished=unfinished,
        )
        try:
            with repaired(self._replay, Repair()):  # nothing stays of what every plan is scored with
                healed = heal_plan(self._shortened(share), watched, plan)
            forget_fits(unfinished)
        except BaseException as error:
            self._repairs.forget((plan, share))
            future.set_exception(error)
            raise
        self._calibration.meter.count(healed.work.layer_forwards, healed.work.heads)
        future.set_result(healed)
        return healed

    def most_work(self, plan: PrunePlan, share: float = 1.0) -> Meter | None:
        """The most that :meth:`healed` runs for a plan; None where the healing does not tell."""
        return most_work(self._shortened(share), self._calibration, plan)

    def _shortened(self, share: float) -> Healing:
        healing = self._healing if share == 1 else self._healing.shortened(share)
        assert healing is not None, "a run with rounds has checked that its healing can be shortened"
        return healing

    def memory(self, room: int) -> int:
        """For scope `plan`: bytes that a fit takes beside the model, no more than there is room for.

        Raises:
            UsageError: it takes more, with what to do.
        """
        with torch.inference_mode(False), torch.enable_grad():
            return self._healing.memory(replace(self._calibration, room=room))

    def remember(self, plan: PrunePlan, healed: Healed) -> None:
        """A plan has been healed before."""
        future, _ = self._repairs.claim((plan, 1.0))
        future.set_result(healed)

    def watched_by(self, watch: Callable[[PrunePlan, Check], None], say: Callable[[str], None] = keep_quiet) -> None:
        """From now on tell this of every check of a fit, and those of the other healers of this process.

        Args:
            watch: told of checks.
            say: told in words how fits are done.
        """
        self._repairs.watch, self._repairs.say = watch, say

    def keep_unfinished(self, folder: Callable[[PrunePlan], Path | None]) -> None:
        """From now on keep fits that are ended in the middle in this folder of a plan, and go on with those there."""
        self._repairs.unfinished = folder

    def take_work(self) -> Meter:
        """What has been run since the last time."""
        meter = self._calibration.meter
        work = replace(meter)
        meter.layer_forwards = meter.heads = 0.0
        meter.tokens = 0
        return work
