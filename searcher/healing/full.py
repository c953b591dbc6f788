"""All weights of the blocks that stay, trained."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.healing.calibration import CalibrationSet
from searcher.healing.staged import Staged, find_weights
from searcher.healing.stages import Stage
from searcher.healing.trainable import Trainable, WholeWeights
from searcher.replay.repair import Repair


@dataclass(frozen=True)
class Full(Staged):
    """Train all weights of the blocks that stay, as they are; embedding and output head stay what they were.

    When to use it: for small models and much text. It takes five times the memory of the trained weights in
    float32, and learns the text it is given by heart sooner than `lora`.

    Source: the retraining of Minitron (Muralidharan et al. 2024, arXiv:2407.14679, section 2.3), which distils with
    loss=kl.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-4

    name: ClassVar[str] = "full"
    plain_weights: ClassVar[str] = "it trains them, and packed weights cannot be trained"
    version: ClassVar[int] = 1

    def trainable(self, calibration: CalibrationSet, plan: PrunePlan, stage: Stage, found: Repair) -> Trainable:
        """See :class:`Staged`."""
        trained = WholeWeights(calibration.replay.model, find_weights(calibration.replay, plan, stage.blocks))
        return trained.beginning_at(found.weights)
