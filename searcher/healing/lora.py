"""LoRA: matrices of low rank, added to the linear layers of the blocks that stay."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.healing.adapters import AdapterOptions, Adapters, choose_layers, find_layers
from searcher.healing.calibration import CalibrationSet
from searcher.healing.staged import Staged, find_norms
from searcher.healing.stages import Stage
from searcher.healing.trainable import Several, Trainable, WholeWeights
from searcher.replay.repair import Repair


@dataclass(frozen=True)
class Lora(Staged):
    """Train small additions to the weights of the blocks that stay, on text and by what the dense model says of it.

    Every linear layer of those blocks gets a product of two narrow matrices added, which alone are trained and are
    merged into the weights at the end: the healed model is as large and as fast as the pruned one.

    When to use it: when a plan has been chosen and the model must not grow. It costs most. By loss=text the dense model
    gains on that text as well, and nothing is gained on another one; loss=kl has the dense model to follow on any.

    Source: Hu et al. 2021, arXiv:2106.09685, equation 3, as peft implements it. One removal and healing after the
    other: `iterative`. For the losses see :class:`searcher.healing.losses.Loss`.

    Args:
        rank: of the added matrices.
        alpha: the product is multiplied with alpha / rank, or with `rslora` alpha / sqrt(rank).
        target_modules: names of the layers that are adapted, such as q_proj+v_proj or mlp; all linear ones by default.
        norms: train the weights of the norms in the blocks, too.
        rslora: see `alpha` (Kalajdzievski 2023, arXiv:2312.03732).
        dora: train the length of each row of a weight apart from its direction (Liu et al. 2024, arXiv:2402.09353).
    """

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16
    target_modules: str = ""
    norms: bool = False
    rslora: bool = False
    dora: bool = False

    name: ClassVar[str] = "lora"
    plain_weights: ClassVar[str] = "what it learns is merged into them, and a sum with packed weights is not packed"

    def __post_init__(self) -> None:
        """Refuse options that do not go together."""
        super().__post_init__()
        if self.iterative and (self.dora or self.norms):
            raise ValueError("iterative=true learns additions further, so it does not go with dora=true or norms=true")

    def trainable(self, calibration: CalibrationSet, plan: PrunePlan, stage: Stage, found: Repair) -> Trainable:
        """See :class:`Staged`."""
        model = calibration.replay.model
        layers = choose_layers(
            find_layers(model, calibration.replay.architecture, plan, stage.blocks), self.target_modules
        )
        if not layers:
            raise UsageError("Healing 'lora' finds no linear layers to adapt", "Use the healing full, layer or bias")
        options = AdapterOptions(self.rank, self.alpha, self.rslora, self.dora, self.seed)
        adapters = Adapters(model, layers, options, found.added)
        if not self.norms:
            return adapters
        return Several([adapters, WholeWeights(model, find_norms(calibration.replay, plan, stage.blocks))])
