"""What a healing is given: the model, replayed, and windows of the heal split."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from searcher.contracts.cost import Prices
from searcher.contracts.plan import Action, PrunePlan
from searcher.contracts.trie import layer_forwards, plan_path
from searcher.replay.batching import in_groups
from searcher.replay.head_gradients import PADDING as PADDING
from searcher.replay.repair import Repair
from searcher.replay.replay import Replay, repaired
from searcher.runs.clusters import spread


@dataclass(frozen=True)
class Check:
    """How a fit stands; losses are in nats, or mean squared errors, as the healing says.

    Attributes:
        step: steps done.
        steps: steps there are to do.
        fitted: loss on the text of the last steps.
        held_out: loss on the held-out part of the heal split.
    """

    step: int
    steps: int
    fitted: float
    held_out: float


@dataclass
class Meter:
    """What healing has run, in the units of :class:`searcher.contracts.cost.Cost`: a block, forward over a window.

    A backward pass counts as two forward passes.

    Attributes:
        layer_forwards: blocks.
        heads: output heads.
        tokens: trained on.
        seconds_before: that the fit took in processes that ended before it did.
    """

    layer_forwards: float = 0.0
    heads: float = 0.0
    tokens: int = 0
    seconds_before: float = 0.0

    def count(self, layer_forwards: float, heads: float = 0.0) -> None:
        """Count work, in blocks times windows and in output heads times windows."""
        self.layer_forwards += layer_forwards
        self.heads += heads

    def count_passes(self, forwards: float, rows: float) -> None:
        """Count whole passes of so many rows through a model of so many blocks, and its head."""
        self.count(forwards * rows, rows)


def ignore(check: Check) -> None:
    """Watches nothing."""


def keep_going() -> None:
    """Ends nothing."""


def keep_quiet(what: str) -> None:
    """Says nothing."""


def _labels(ids: Tensor, scored: Tensor | None) -> Tensor:
    return ids if scored is None else ids.masked_fill(~scored, PADDING)


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """A model and the text to heal it on; use under `torch.inference_mode()`, which a healing that trains leaves.

    Attributes:
        replay: runs the model, which is always the dense one; plans and repairs are given with each call.
        fit: int64 (windows, tokens) to fit on, on the model's device.
        held_out: int64 (windows, tokens) to stop early and to choose by; nothing is fitted on it.
        prices: for counting parts of blocks.
        watch: told of every check of a fit.
        go_on: called at every step of a fit; raises an exception to end it.
        say: told in words how a fit is done, and how long it will take.
        meter: counts what is run.
        documents: of each held-out window, the document it was cut from; empty if each is of its own.
        room: bytes that a fit may take beside the model; None for what is free by default.
        unfinished: the folder where fits are kept that were ended in the middle; None for nowhere.
        begun: when the fit began, by `time.monotonic`.
        fit_scored: bool (windows, tokens), which tokens of `fit` are learnt from; None for all.
        held_out_scored: bool (windows, tokens), which tokens of `held_out` the loss counts; None for all.
    """

    replay: Replay
    fit: Tensor
    held_out: Tensor
    prices: Prices
    watch: Callable[[Check], None] = ignore
    go_on: Callable[[], None] = keep_going
    say: Callable[[str], None] = keep_quiet
    meter: Meter = field(default_factory=Meter)
    documents: tuple[int, ...] = ()
    room: int | None = None
    unfinished: Path | None = None
    begun: float = field(default_factory=time.monotonic)
    fit_scored: Tensor | None = None
    held_out_scored: Tensor | None = None

    def labels(self, rows: Tensor) -> Tensor:
        """int64 (rows, tokens): the tokens of these windows to fit on, `PADDING` where nothing is learnt from them."""
        return _labels(self.fit, self.fit_scored)[rows]

    @property
    def held_out_labels(self) -> Tensor:
        """The same of all held-out windows."""
        return _labels(self.held_out, self.held_out_scored)

    def some_held_out(self, count: int) -> Tensor:
        """int64 (windows, tokens): so many of the held-out windows, of as many documents as there are."""
        return self.held_out[spread(self.documents or range(len(self.held_out)), count)]

    def loss(self, plan: PrunePlan, repair: Repair) -> float:
        """Mean next-token loss of a repaired plan on the held-out windows, in nats."""
        with torch.inference_mode(), repaired(self.replay, repair):
            losses = [self._losses(ids.clamp(min=0), plan) for ids in in_groups(self.held_out)]
        self.count_forward(plan, len(self.held_out), heads=True)
        found = torch.cat(losses)
        counted = self.held_out_labels[:, 1:] != PADDING
        return float(found[counted.to(found.device)].double().mean())

    def dense_states(self, ids: Tensor, blocks: Collection[int]) -> dict[int, Tensor]:
        """Hidden states of the dense model after these blocks; (rows, tokens, hidden size) each; -1: the embeddings."""
        found: dict[int, list[Tensor]] = {block: [] for block in blocks}
        last = max(blocks, default=-1)
        for batch in in_groups(ids.clamp(min=0)):
            hidden = self.replay.embed(batch)
            for block in range(-1, last + 1):
                hidden = hidden if block < 0 else self.run_block(hidden, block, Action.KEEP)
                if block in found:
                    found[block].append(hidden)
        return {block: torch.cat(states) for block, states in found.items()}

    def run_block(self, hidden: Tensor, block: int, action: Action) -> Tensor:
        """Hidden states after a block, (rows, tokens, hidden size) to the same; nothing stands in for what is removed.

        Asks whether to go on, and counts the work.
        """
        self.go_on()
        if action is Action.GONE:
            return hidden.to(self.replay.places[block])
        windows = len(hidden) * hidden.shape[1] / self.fit.shape[1]  # some healings read only the beginnings
        self.meter.count(self.prices.weight[action] * windows)
        return self.replay.run_block_without(hidden, block, self.replay.architecture.removed_by(block, action))

    def count_forward(self, plan: PrunePlan, rows: int, heads: bool = False, passes: float = 1.0) -> None:
        """Count a forward pass over so many rows under a plan, or several such passes."""
        self.meter.count(passes * self.blocks_of(plan) * rows, passes * rows if heads else 0.0)

    def blocks_of(self, plan: PrunePlan) -> float:
        """Blocks that a pass through the model under a plan runs."""
        return layer_forwards([plan_path(plan, self.replay.num_blocks)], self.prices.weight)

    def _losses(self, ids: Tensor, plan: PrunePlan) -> Tensor:
        ((_, hidden),) = self.replay.states(ids, [plan])
        return self.replay.head.losses(hidden, ids)
