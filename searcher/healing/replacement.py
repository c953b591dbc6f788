"""Gaps filled with one small module each, trained to give the hidden states that the removed blocks gave."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from searcher.architecture.replacement_modules import FFN, SwiGLU
from searcher.contracts.plan import Action, PrunePlan
from searcher.errors import UsageError
from searcher.healing.calibration import CalibrationSet, Meter
from searcher.healing.contract import Healing
from searcher.healing.end_to_end import most_work_of, train_end_to_end
from searcher.healing.filling import Filling, RemovedSpan, count_parameters, find_gaps, walk_gaps
from searcher.healing.inserted import Inserted, copy_of
from searcher.healing.losses import HiddenError, Loss, parse_loss
from searcher.healing.training import Task, TrainingOptions, most_rows, train
from searcher.replay.repair import Place, Repair, ReplacementModule
from searcher.replay.replay import Replay

LOCAL = "local"
"""The loss of a module by itself, on the states around its gap."""


@dataclass(frozen=True)
class Replacement(Healing):
    """Fill every gap of removed blocks with one module, trained on the hidden states around the gap, or end to end.

    With `loss=local` gaps are filled from the first to the last: what enters a gap are the states of the pruned model
    as it is healed so far, what should leave it those of the dense model. The loss is a squared error; no later block
    is run. Any other loss trains the modules of all gaps together, through the whole model.

    Args:
        steps: for each gap; end to end, in all.
        lr: the learning rate; it falls to `min_lr` along half a cosine. The paper's 2e-4 is for far more text.
        min_lr: where it ends.
        weight_decay: of AdamW.
        batch: windows in a step.
        loss: local, or what is minimised end to end: text, kl, hidden or a sum, as `lora` has them.
        temperature: of kl.
        match: of hidden: squared or cosine.
        error: of local: plain squared errors, or relative to the squared norm of what should leave, token by token, so
            that a first token of huge norm, as most models have it, counts no more than another. On SmolLM2-135M the
            plain ones heal better (three gaps, held-out loss of `layer` 3.26 against 3.29, of `ffn` 3.45 against 3.46),
            and as well as without the first token: the residual carries it, and AdamW evens out the rest.
        patience: checks in a row without a smaller held-out error that end the fit early; 0 for never.
        seed: draws the first weights and the order of the windows.
    """

    steps: Annotated[int, Field(ge=0)] = 200
    lr: Annotated[float, Field(gt=0)] = 1e-3
    min_lr: Annotated[float, Field(ge=0)] = 5e-5
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    batch: Annotated[int, Field(ge=1)] = 4
    loss: str = LOCAL
    temperature: Annotated[float, Field(gt=0)] = 1.0
    match: HiddenError = "squared"
    error: Literal["plain", "relative"] = "plain"
    patience: Annotated[int, Field(ge=0)] = 3
    seed: Annotated[int, Field(ge=0)] = 0

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse a loss that cannot be read.

        Raises:
            ValueError: with the reason.
        """
        if self.loss == LOCAL:
            given = {"temperature": self.temperature != 1, "match": self.match != "squared"}
            if unfit := [name for name, is_given in given.items() if is_given]:
                raise ValueError(f"{unfit[0]} is not of loss=local; give loss=kl or loss=hidden")
        else:
            self.minimised()
            if self.error != "plain":
                raise ValueError(f"error={self.error} is of loss=local, but loss={self.loss}")

    @property
    def predicts(self) -> bool:
        """See :class:`Healing`; a module that is trained by itself fits hidden states."""
        return self.loss != LOCAL

    def minimised(self) -> Loss:
        """The loss, where it is not local."""
        return parse_loss(self.loss, self.temperature, self.match)

    def replacements(self, replay: Replay, plan: PrunePlan) -> Mapping[Place, ReplacementModule]:
        """See :class:`Healing`."""
        try:
            return {(gap[1], Action.GONE): self.blank(replay, gap) for gap in find_gaps(self.name, plan)}
        except UsageError:  # a plan that cannot be healed so stays as it is
            return {}

    @abstractmethod
    def blank(self, replay: Replay, gap: RemovedSpan) -> ReplacementModule:
        """What will stand in a gap, without values of its own."""

    @abstractmethod
    def begin(self, replay: Replay, gap: RemovedSpan) -> ReplacementModule:
        """What is trained for a gap, as it will stand there: in the model's dtype and on its device."""

    def price(self, replay: Replay, gap: RemovedSpan) -> float:
        """What running that costs, in blocks: by its parameters."""
        return count_parameters(self.blank(replay, gap).module) / count_parameters(replay.architecture.blocks[gap[0]])

    def most_work(self, calibration: CalibrationSet, plan: PrunePlan) -> Meter:
        """See :class:`Healing`: the states around the gaps, of the plan and of the dense model, and the fits."""
        work, gaps, fit, held_out = Meter(), find_gaps(self.name, plan), len(calibration.fit), len(calibration.held_out)
        if self.loss != LOCAL:
            loss = self.minimised()
            blocks = calibration.blocks_of(plan) + sum(self.price(calibration.replay, gap) for gap in gaps)
            return most_work_of(calibration, self._training_options(), loss, blocks, self.steps if gaps else 0)
        for gap in gaps:
            rows = most_rows(self._training_options(), len(gaps) * self.steps, fit, held_out)
            work.count(self.price(calibration.replay, gap) * sum(rows))
        if gaps:
            before = sum(plan.action(block) is not Action.GONE for block in range(gaps[-1][0]))
            work.count((gaps[-1][1] + 1 + before) * (fit + held_out))
        return work

    def _training_options(self) -> TrainingOptions:
        return TrainingOptions(
            self.name, self.steps, self.batch, self.lr, self.min_lr, self.weight_decay, self.patience, self.seed
        )

    def heal(self, calibration: CalibrationSet, plan: PrunePlan) -> Repair:
        """See :class:`Healing`."""
        gaps = find_gaps(self.name, plan)
        if self.loss != LOCAL:
            return self._train_together(calibration, plan, gaps)
        after: dict[Place, ReplacementModule] = {}
        with torch.inference_mode(False), torch.no_grad():
            for gap, fit, held_out in walk_gaps(calibration, gaps, after):
                calibration.replay.embed(
                    calibration.fit[: self.batch].clamp(min=0)
                )  # records what blocks get for this shape
                filling = Filling(calibration, self.begin(calibration.replay, gap), gap, fit, held_out, self.error)
                parameters = list(filling.learner.parameters())
                task = Task(
                    parameters,
                    filling.backward,
                    filling.held_out_error,
                    len(after) * self.steps,
                    len(gaps) * self.steps,
                )
                with torch.enable_grad():
                    train(calibration, task, self._training_options())
                after[gap[1], Action.GONE] = filling.learnt()
        return Repair(after=after)

    def _train_together(self, calibration: CalibrationSet, plan: PrunePlan, gaps: list[RemovedSpan]) -> Repair:
        if not gaps:
            return Repair()
        with torch.inference_mode(False), torch.enable_grad():
            begun = {(gap[1], Action.GONE): self.begin(calibration.replay, gap) for gap in gaps}
            trained = Inserted(calibration.replay, begun)
            train_end_to_end(calibration, plan, trained, self.minimised(), self._training_options())
            return trained.repair()


@dataclass(frozen=True)
class Layer(Replacement):
    """Fill every gap with one block of the model's kind, which starts as the first of the removed ones.

    When to use it: for long gaps, of which it takes the place at the price of one block.

    Source: LLM-Streamline (Chen et al. 2024, arXiv:2403.19135, equation 4); here it attends to no later token.

    Args:
        steps: see :class:`Replacement`, as the other arguments.
    """

    name: ClassVar[str] = "layer"
    plain_weights: ClassVar[str] = "it trains a copy of a block, and packed weights cannot be trained"

    def blank(self, replay: Replay, gap: RemovedSpan) -> ReplacementModule:
        """See :class:`Replacement`."""
        return ReplacementModule(replay.architecture.blocks[gap[0]], like=gap[0])

    def begin(self, replay: Replay, gap: RemovedSpan) -> ReplacementModule:
        """A copy of the gap's first block, with the model's own config, where per-layer lists may be shortened."""
        return ReplacementModule(copy_of(replay.architecture.blocks[gap[0]]), like=gap[0])


@dataclass(frozen=True)
class Ffn(Replacement):
    """Fill every gap with a feed-forward network on normed states, which adds to them; at first it adds nothing.

    When to use it: where the gap's blocks moved no information between tokens; it needs no key-value cache.

    Source: the FFN of LLM-Streamline (Chen et al. 2024, arXiv:2403.19135, equation 4), here with a residual.

    Args:
        inner: neurons; 0 for four times the hidden size.
    """

    lr: Annotated[float, Field(gt=0)] = 3e-3
    inner: Annotated[int, Field(ge=0)] = 0

    name: ClassVar[str] = "ffn"

    def blank(self, replay: Replay, gap: RemovedSpan) -> ReplacementModule:
        """See :class:`Replacement`."""
        return ReplacementModule(blank(FFN, self.inner or 4 * _width(replay), replay))

    def begin(self, replay: Replay, gap: RemovedSpan) -> ReplacementModule:
        """See :class:`Replacement`."""
        return ReplacementModule(drawn(self.blank(replay, gap).module, replay, self.seed, gap[1]))


@dataclass(frozen=True)
class Swiglu(Replacement):
    """The same as `ffn` with a gate, as the FFNs of today's models have it.

    When to use it: as `ffn`.

    Source: the SwiGLU of LLM-Streamline (Chen et al. 2024, arXiv:2403.19135, equation 4), here with a residual.

    Args:
        inner: neurons; 0 for 8/3 of the hidden size, which gives it as many weights as `ffn`.
    """

    lr: Annotated[float, Field(gt=0)] = 3e-3
    inner: Annotated[int, Field(ge=0)] = 0

    name: ClassVar[str] = "swiglu"

    def blank(self, replay: Replay, gap: RemovedSpan) -> ReplacementModule:
        """See :class:`Replacement`."""
        return ReplacementModule(blank(SwiGLU, self.inner or 8 * _width(replay) // 3, replay))

    def begin(self, replay: Replay, gap: RemovedSpan) -> ReplacementModule:
        """See :class:`Replacement`."""
        return ReplacementModule(drawn(self.blank(replay, gap).module, replay, self.seed, gap[1]))


def blank(kind: type[nn.Module], inner: int, replay: Replay) -> nn.Module:
    """A module of :mod:`searcher.architecture.replacement_modules` on the device `meta`, in the model's dtype."""
    with torch.device("meta"):  # where nothing is drawn from the generator that all threads share
        return kind(_width(replay), inner).to(replay.model.dtype)


def drawn(module: nn.Module, replay: Replay, seed: int, block: int) -> nn.Module:
    """A blank module that adds nothing yet, on a block's device; its first matrices are drawn as torch draws them."""
    module = module.float().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        bound = 1 / math.sqrt(parameter.shape[-1])
        if name == "norm.weight":
            nn.init.ones_(parameter)
        elif name.startswith("down") or name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return module.to(replay.places[block], replay.model.dtype).requires_grad_(False)


def _width(replay: Replay) -> int:
    return int(replay.model.config.get_text_config(decoder=True).hidden_size)
