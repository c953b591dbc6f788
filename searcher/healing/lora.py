"""LoRA: matrices of low rank, added to the linear layers of the blocks that stay, trained on the next-token loss."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from searcher.architecture.blocks import Architecture
from searcher.contracts.plan import Action, Part, PrunePlan, Unit
from searcher.healing.calibration import PADDING, CalibrationSet, Meter
from searcher.healing.contract import Healing
from searcher.healing.training import BACKWARD, Task, TrainingOptions, most_rows, train
from searcher.replay.head import FusedHead, OwnHead
from searcher.replay.repair import LowRank, Repair
from searcher.replay.replay import repaired

ADAPTER = "default"
"""What peft calls the only adapter of a layer."""
Layers = Mapping[str, nn.Linear | Conv1D]
"""Linear layers by their names in the dense model."""


@dataclass(frozen=True)
class Stage:
    """A part of a fit.

    Attributes:
        plan: what is removed by then.
        blocks: which are adapted, ascending.
        first: steps done before.
        steps: to do.
    """

    plan: PrunePlan
    blocks: tuple[int, ...]
    first: int
    steps: int


@dataclass(frozen=True)
class Lora(Healing):
    """Train small additions to the weights of the blocks that stay, so that the pruned model predicts text again.

    Every linear layer of those blocks gets a product of two narrow matrices added, which alone are trained and are
    merged into the weights at the end: the healed model is as large and as fast as the pruned one.

    When to use it: when a plan has been chosen, must not grow, and will read text of this kind. It costs most, and of
    what it gains the dense model gains a part too: without 8 blocks of SmolLM2-135M it leaves a perplexity 1.78 times
    that of the dense model healed the same, `layer` 1.19 times, and `linear-folded`, which adds nothing either, 1.57.

    Source: Hu et al. 2021, arXiv:2106.09685, equation 3, as peft implements it. One removal and healing after the
    other: `iterative`.

    Args:
        steps: in all, however many removals they are shared among.
        rank: of the added matrices.
        alpha: the product is multiplied with alpha / rank.
        lr: the learning rate; it falls to a tenth along half a cosine.
        batch: windows in a step.
        where: which blocks are adapted: all that stay, or only the one after each gap (before it, where none
            follows); the dense model, which has no gap, is adapted as a whole.
        iterative: make the removals one after another, ascending, and heal after each with an equal share of the
            steps. What has been learnt is kept and learnt further.
        patience: checks in a row without a better held-out loss that end the fit early; 0 for never.
        seed: draws the first matrices and the order of the windows.
    """

    steps: Annotated[int, Field(ge=1)] = 200
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16
    lr: Annotated[float, Field(gt=0)] = 1e-3
    batch: Annotated[int, Field(ge=1)] = 4
    where: Literal["all", "after"] = "all"
    iterative: bool = False
    patience: Annotated[int, Field(ge=0)] = 3
    seed: Annotated[int, Field(ge=0)] = 0

    predicts: ClassVar[bool] = True
    plain_weights: ClassVar[str] = "what it learns is merged into them, and a sum with packed weights is not packed"

    def heal(self, calibration: CalibrationSet, plan: PrunePlan) -> Repair:
        """See :class:`Healing`."""
        with torch.inference_mode(False), torch.enable_grad():
            found: dict[str, LowRank] = {}
            for stage in self.stages(plan, calibration.replay.num_blocks):
                found |= self._train(calibration, stage, plan, found)
        return Repair(added=found)

    def most_work(self, calibration: CalibrationSet, plan: PrunePlan) -> Meter:
        """See :class:`Healing`."""
        work = Meter()
        for stage in self.stages(plan, calibration.replay.num_blocks):
            rows = most_rows(
                self._training_options(stage.steps), self.steps, len(calibration.fit), len(calibration.held_out)
            )
            work.count_passes(calibration.blocks_of(stage.plan), sum(rows))
        return work

    def _training_options(self, steps: int) -> TrainingOptions:
        return TrainingOptions("lora", steps, self.batch, self.lr, self.lr / 10, 0.0, self.patience, self.seed)

    def stages(self, plan: PrunePlan, num_blocks: int) -> list[Stage]:
        """The plans that are healed one after another, the last of them the whole; only blocks it keeps are adapted."""
        removals = len(plan.removed) if self.iterative and plan.removed else 1
        stages: list[Stage] = []
        for number in range(removals):
            done = PrunePlan(plan.removed[: number + 1]) if self.iterative else plan
            new = done.removed[-1:] if self.iterative else done.removed
            blocks = [b for b in range(num_blocks) if plan.action(b) is not Action.GONE]
            if self.where == "after" and plan.removed:
                blocks = sorted({_block_after(plan, unit, blocks) for unit in new} if blocks else ())
            first, last = (self.steps * n // removals for n in (number, number + 1))
            if blocks and last > first:
                stages.append(Stage(done, tuple(blocks), first, last - first))
        return stages

    def _train(
        self, calibration: CalibrationSet, stage: Stage, plan: PrunePlan, found: dict[str, LowRank]
    ) -> dict[str, LowRank]:
        """What is added to the weights of the stage's blocks after it, learnt on from what was found before."""
        layers = find_layers(calibration.replay.model, calibration.replay.architecture, plan, stage.blocks)
        adapters = Adapters(calibration.replay.model, layers, self.rank, self.alpha, self.seed, found)
        others = {name: added for name, added in found.items() if name.removesuffix(".weight") not in layers}

        def held_out() -> float:
            return calibration.loss(stage.plan, Repair(added=adapters.factors()))

        def backward(rows: Tensor) -> float:
            with adapters.in_place():
                return _backward(calibration, stage.plan, rows.to(calibration.fit.device), adapters)

        with repaired(calibration.replay, Repair(added=others)):
            task = Task(adapters.parameters, backward, held_out, stage.first, self.steps)
            train(calibration, task, self._training_options(stage.steps))
        return adapters.factors()


def _block_after(plan: PrunePlan, unit: Unit, kept: Sequence[int]) -> int:
    """The block that is given the hidden states which the unit no longer changes; the one before it, if none is."""
    first = unit.block if unit.part is Part.ATTENTION else unit.block + 1
    return next((block for block in kept if block >= first), kept[-1])


def find_layers(model: nn.Module, architecture: Architecture, plan: PrunePlan, blocks: Sequence[int]) -> Layers:
    """The linear layers that these blocks run under a plan, by their names in the model."""
    silent = {m for b in blocks for sublayer in architecture.removed_by(b, plan.action(b)) for m in sublayer.modules()}
    inside = {module for block in blocks for module in architecture.blocks[block].modules()} - silent
    return {name: module for name, module in model.named_modules() if module in inside and _is_linear(module)}


def _is_linear(module: nn.Module) -> bool:
    """Whether it multiplies with its weight and does no more; routers of experts are derived from `Linear`, too."""
    if not isinstance(module, nn.Linear | Conv1D) or type(module) in (nn.Linear, Conv1D):
        return isinstance(module, nn.Linear | Conv1D)
    return isinstance(module(module.weight.new_zeros(1, module.weight.shape[1])), Tensor)


class Adapters:
    """peft's LoRA layers around some of a model's linear layers; the model has them only within :meth:`in_place`.

    What is trained is float32, whatever the model is.

    Args:
        model: whose layers.
        layers: by name, those to adapt.
        rank: of what is added.
        alpha: it is multiplied with alpha / rank.
        seed: draws where to begin.
        found: what has been learnt for some of the layers before, with the same rank and alpha.

    Attributes:
        parameters: two matrices of each layer, (rank, columns) and (rows, rank).
    """

    def __init__(
        self, model: Any, layers: Layers, rank: int, alpha: float, seed: int, found: Mapping[str, LowRank]
    ) -> None:
        self._layers, self._scale = layers, alpha / rank
        self._parents = {name: model.get_submodule(name.rpartition(".")[0]) for name in layers}
        self._adapted = dict(zip(layers, _wrapped(list(layers.values()), rank, alpha), strict=True))
        self._generator = torch.Generator().manual_seed(seed)
        self.parameters: list[nn.Parameter] = []
        for name, adapted in self._adapted.items():
            begun = self._begin(adapted)
            before = found.get(f"{name}.weight")
            for value in begun if before is None else self._learnt(name, before):
                self.parameters.append(nn.Parameter(value.to(layers[name].weight.device).float().clone()))

    def running(self) -> list[Tensor]:
        """The parameters in the dtype of the layers, as they were when the model last had the adapted layers."""
        return [half.weight for adapted in self._adapted.values() for half in _halves(adapted)]

    def factors(self) -> dict[str, LowRank]:
        """What is now added to the weights, by their names in the model; copies."""
        found = {}
        for name, down, up in zip(self._layers, self.parameters[::2], self.parameters[1::2], strict=True):
            left, right = up.detach() * self._scale, down.detach().clone()  # (out, rank), (rank, in)
            turned = isinstance(self._layers[name], Conv1D)  # whose weight is (in, out)
            found[f"{name}.weight"] = LowRank(right.t(), left.t()) if turned else LowRank(left, right)
        return found

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model run the adapted layers; afterwards it has its own again.

        It runs them in its own dtype: in float32 a step takes a quarter longer, and they are merged in the end anyway.
        """
        values = iter(self.parameters)
        for name, adapted in self._adapted.items():
            for half in _halves(adapted):
                half.weight = nn.Parameter(next(values).detach().to(self._layers[name].weight.dtype))
        try:
            for name, parent in self._parents.items():
                parent._modules[name.rpartition(".")[2]] = self._adapted[name]
            yield
        finally:
            for name, parent in self._parents.items():
                parent._modules[name.rpartition(".")[2]] = self._layers[name]

    def _begin(self, adapted: Any) -> tuple[Tensor, Tensor]:
        """As peft begins: a matrix drawn as that of any linear layer, and one of zeros."""
        down = torch.empty(adapted.r[ADAPTER], adapted.in_features)
        bound = 1 / math.sqrt(adapted.in_features)
        return down.uniform_(-bound, bound, generator=self._generator), torch.zeros(adapted.out_features, len(down))

    def _learnt(self, name: str, before: LowRank) -> tuple[Tensor, Tensor]:
        turned = isinstance(self._layers[name], Conv1D)
        left, right = (before.right.t(), before.left.t()) if turned else (before.left, before.right)
        return right, left / self._scale


def _halves(adapted: Any) -> tuple[nn.Linear, nn.Linear]:
    return adapted.lora_A[ADAPTER], adapted.lora_B[ADAPTER]


def _wrapped(layers: Sequence[nn.Module], rank: int, alpha: float) -> list[Any]:
    """peft's layers around these, with adapters that have no values yet; nothing else is touched."""
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds

    holder = nn.ModuleDict({str(number): layer for number, layer in enumerate(layers)})
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=r"\d+", fan_in_fan_out=any(isinstance(m, Conv1D) for m in layers)
    )
    trained = [(p, p.requires_grad) for p in holder.parameters()]
    try:
        with torch.device("meta"):  # where nothing is drawn from the generator that all threads share
            inject_adapter_in_model(config, holder, adapter_name=ADAPTER)
    finally:
        for parameter, before in trained:
            parameter.requires_grad_(before)
    return list(holder.values())


def _backward(calibration: CalibrationSet, plan: PrunePlan, rows: Tensor, adapters: Adapters) -> float:
    """Leave the gradients of the mean next-token loss of these windows in the adapters, and return that loss."""
    replay, ids, labels = calibration.replay, calibration.fit[rows], calibration.labels(rows)
    ((_, hidden),) = replay.states(ids.clamp(min=0), [plan])
    loss, gradient = loss_with_gradient(replay.head, hidden.detach(), ids, labels)
    gradients = torch.autograd.grad(hidden, adapters.running(), gradient, allow_unused=True)
    for parameter, own in zip(adapters.parameters, gradients, strict=True):
        parameter.grad = None if own is None else own.float()
    calibration.count_forward(plan, len(ids), heads=True, passes=1 + BACKWARD)
    calibration.meter.tokens += int((ids >= 0).sum())
    return loss


def loss_with_gradient(
    head: FusedHead | OwnHead, hidden: Tensor, ids: Tensor, labels: Tensor | None = None
) -> tuple[float, Tensor]:
    """Mean next-token loss and its gradient by the hidden states, with the logits of one row at a time.

    Args:
        head: from hidden states to logits.
        hidden: (rows, tokens, hidden size), after the last block.
        ids: int64 (rows, tokens); what is predicted as padding does not count.
        labels: int64 (rows, tokens): the same with padding for all else that does not count; by default nothing else.
    """
    labels = (ids if labels is None else labels)[:, 1:].to(hidden.device)
    counted = (labels != PADDING).sum()
    leaf, gradient, total = hidden.requires_grad_(), torch.zeros_like(hidden), 0.0
    for row, logits in enumerate(head.logits(leaf, ids.clamp(min=0))):
        summed = F.cross_entropy(logits[:-1].float(), labels[row], ignore_index=PADDING, reduction="sum")
        loss = summed / counted
        gradient += torch.autograd.grad(loss, leaf)[0]
        total += loss.item()
    return total, gradient
