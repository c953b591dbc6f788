"""What healing changes in a model: weights of blocks that stay, and modules that stand where something is missing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from searcher.contracts.plan import Action, PrunePlan

Place = tuple[int, Action]
"""After which block, if that is done with it."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """A matrix of low rank that is added to a weight, as LoRA learns it.

    Attributes:
        left: float32 (rows of the weight, rank).
        right: float32 (rank, columns of the weight).
    """

    left: Tensor
    right: Tensor

    def added_to(self, weight: Tensor) -> Tensor:
        """The weight with the matrix added, summed in float32, in the weight's dtype."""
        left, right = self.left.to(weight.device), self.right.to(weight.device)
        return torch.addmm(weight.float(), left, right).to(weight.dtype)

    def __add__(self, other: "LowRank") -> "LowRank":
        return LowRank(torch.cat([self.left, other.left], dim=1), torch.cat([self.right, other.right], dim=0))


@dataclass(frozen=True, eq=False)
class ReplacementModule:
    """A module that hidden states go through where something is missing.

    Attributes:
        module: pointwise, (…, hidden size) to the same, of :mod:`searcher.architecture.replacement_modules`;
            or a block of the model's kind.
        like: for a block, the number of the one whose arguments (masks, positions) it is given; None if pointwise.
    """

    module: nn.Module
    like: int | None = None


@dataclass(frozen=True, eq=False)
class Repair:
    """What healing changes; blocks and parameters are named as in the dense model.

    Attributes:
        added: by parameter name, what is added to it.
        weights: by parameter name, what it is replaced by, in the model's dtype.
        after: what stands after a block if a plan does that with it.
    """

    added: Mapping[str, LowRank] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    after: Mapping[Place, ReplacementModule] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.added or self.weights or self.after)

    def __or__(self, other: "Repair") -> "Repair":
        """Both; the other where they disagree."""
        return Repair({**self.added, **other.added}, {**self.weights, **other.weights}, {**self.after, **other.after})

    @property
    def parameters(self) -> int:
        """How many the modules have that stand after blocks."""
        return sum(p.numel() for replacement in self.after.values() for p in replacement.module.parameters())

    def of(self, plan: PrunePlan, num_blocks: int) -> "Repair":
        """The part of it that this plan meets."""
        actions = plan.actions(num_blocks)
        after = {place: one for place, one in self.after.items() if actions[place[0]] == place[1]}
        return Repair(self.added, self.weights, after)

    def merged(self, model: nn.Module) -> "Repair":
        """The same with whole weights in place of what is added to them."""
        own = dict(model.named_parameters())
        weights = {name: self.weights.get(name, own[name].detach()) for name in self.added}
        merged = {name: self.added[name].added_to(weight) for name, weight in weights.items()}
        return Repair({}, {**self.weights, **merged}, self.after)


@contextmanager
def weights_replaced(model: nn.Module, repair: Repair) -> Iterator[None]:
    """Let the model have the repair's weights; afterwards it has its own again, which were never written to."""
    before: list[tuple[nn.Module, str, Any]] = []
    try:
        for name, weight in repair.merged(model).weights.items():
            path, _, own = name.rpartition(".")
            module = model.get_submodule(path)
            before.append((module, own, module._parameters[own]))
            place = before[-1][2].device
            module._parameters[own] = nn.Parameter(weight.to(place), requires_grad=False)
        yield
    finally:
        for module, own, parameter in before:
            module._parameters[own] = parameter
