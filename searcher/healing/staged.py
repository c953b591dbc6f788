"""Healings that train weights of the blocks that stay, end to end, at once or removal by removal."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from searcher.contracts.plan import DENSE, PrunePlan
from searcher.healing.calibration import CalibrationSet, Meter
from searcher.healing.contract import Healing
from searcher.healing.dense_targets import kept_bytes
from searcher.healing.end_to_end import Part, most_work_of, train_end_to_end
from searcher.healing.losses import HiddenError, Loss, parse_loss
from searcher.healing.stages import Stage, Where, plan_stages
from searcher.healing.trainable import Trainable, trained_modules
from searcher.healing.training import TrainingOptions
from searcher.healing.training_room import plan_passes
from searcher.replay.repair import Repair
from searcher.replay.replay import Replay


@dataclass(frozen=True)
class Staged(Healing):
    """Train what a subclass names, in one stage or several.

    Args:
        steps: in all, however many removals they are shared among.
        lr: the learning rate; it falls to a tenth along half a cosine.
        batch: windows in a step.
        loss: what is minimised: text (the next-token loss), kl (divergence from the dense model's next-token
            distribution), hidden (distance from its hidden states after each block that stays), or a weighted sum such
            as kl+0.5*text. On SmolLM2-135M without 8 blocks kl+text does as well as text on the text it is fitted to,
            and at equal steps leaves a perplexity 18% lower on text of another kind.
        temperature: of kl; above 1 it looks at unlikely tokens more.
        match: the distance of hidden: squared, relative to the squared norm of the dense state, or cosine.
        where: which blocks are trained: all that stay, or only the one after each gap (before it, where none
            follows); the dense model, which has no gap, is trained as a whole.
        iterative: make the removals one after another, ascending, and heal after each with an equal share of the
            steps. What has been learnt is kept and learnt further.
        patience: checks in a row without a better held-out loss that end the fit early; 0 for never.
        seed: draws the order of the windows, and where a fit begins, if that is drawn.
    """

    steps: Annotated[int, Field(ge=1)] = 200
    lr: Annotated[float, Field(gt=0)] = 1e-3
    batch: Annotated[int, Field(ge=1)] = 4
    loss: str = "kl+text"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    match: HiddenError = "squared"
    where: Where = "all"
    iterative: bool = False
    patience: Annotated[int, Field(ge=0)] = 3
    seed: Annotated[int, Field(ge=0)] = 0

    name: ClassVar[str]
    version: ClassVar[int] = 2  # 1 summed the gradient of the head row by row, with full logits

    def __post_init__(self) -> None:
        """Refuse a loss that cannot be read.

        Raises:
            ValueError: with the reason.
        """
        self.minimised()

    @property
    def predicts(self) -> bool:
        """See :class:`Healing`."""
        return True

    def minimised(self) -> Loss:
        """The loss."""
        return parse_loss(self.loss, self.temperature, self.match)

    @abstractmethod
    def trainable(self, calibration: CalibrationSet, plan: PrunePlan, stage: Stage, found: Repair) -> Trainable:
        """What is trained in a stage.

        Args:
            calibration: the model.
            plan: the whole plan.
            stage: of it.
            found: what earlier stages have learnt.
        """

    def heal(self, calibration: CalibrationSet, plan: PrunePlan) -> Repair:
        """See :class:`Healing`."""
        with torch.inference_mode(False), torch.enable_grad():
            found = Repair()
            for stage in self.stages(plan, calibration.replay.num_blocks):
                found = found | self._train(calibration, plan, stage, found)
        return found

    def stages(self, plan: PrunePlan, num_blocks: int) -> list[Stage]:
        """See :func:`plan_stages`."""
        return plan_stages(plan, num_blocks, self.steps, self.where, self.iterative)

    def most_work(self, calibration: CalibrationSet, plan: PrunePlan) -> Meter:
        """See :class:`Healing`; with states inside blocks computed once, which memory may not allow."""
        work, loss = Meter(), self.minimised()
        for stage in self.stages(plan, calibration.replay.num_blocks):
            options, blocks = self._training_options(stage.steps), calibration.blocks_of(stage.plan)
            own = most_work_of(calibration, options, loss, blocks, self.steps)
            work.count(own.layer_forwards, own.heads)
        return work

    def memory(self, calibration: CalibrationSet) -> int:
        """See :class:`Healing`: that of the dense model, of which most is trained."""
        (stage,) = self.stages(DENSE, calibration.replay.num_blocks)
        trained = self.trainable(calibration, DENSE, stage, Repair())
        targets = kept_bytes(calibration, self.minimised())
        return plan_passes(calibration, DENSE, trained, self.batch, self.name, targets)[1]

    def _training_options(self, steps: int) -> TrainingOptions:
        return TrainingOptions(self.name, steps, self.batch, self.lr, self.lr / 10, 0.0, self.patience, self.seed)

    def _train(self, calibration: CalibrationSet, plan: PrunePlan, stage: Stage, found: Repair) -> Repair:
        """What is learnt in a stage, on from what was found before."""
        trained = self.trainable(calibration, plan, stage, found)
        others = without(found, trained.repair()) if found else found
        options, part = self._training_options(stage.steps), Part(stage.first, self.steps, others)
        train_end_to_end(calibration, stage.plan, trained, self.minimised(), options, part)
        return trained.repair()


def without(found: Repair, trained: Repair) -> Repair:
    """What was found for weights that are not trained now."""
    return replace(
        found,
        added={name: one for name, one in found.added.items() if name not in trained.added},
        weights={name: one for name, one in found.weights.items() if name not in trained.weights},
    )


def find_weights(replay: Replay, plan: PrunePlan, blocks: Sequence[int]) -> list[str]:
    """Names of all weights that these blocks run under a plan."""
    inside = trained_modules(replay.architecture, plan, blocks)
    own = {f"{path}.{name}" for path, m in replay.model.named_modules() if m in inside for name in m._parameters}
    return [name for name, weight in replay.model.named_parameters() if name in own and weight.is_floating_point()]


def find_norms(replay: Replay, plan: PrunePlan, blocks: Sequence[int]) -> list[str]:
    """Names of the weights of the norms among them: vectors of modules that are called so."""
    modules = dict(replay.model.named_modules())
    return [
        name
        for name in find_weights(replay, plan, blocks)
        if "norm" in type(modules[name.rpartition(".")[0]]).__name__.lower()
    ]
