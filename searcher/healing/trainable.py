"""What a healing trains: values in float32, which the model runs in its own dtype."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import reduce
from operator import or_
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from searcher.architecture.blocks import Architecture
from searcher.contracts.plan import PrunePlan
from searcher.replay.repair import Repair


class Trainable(Protocol):
    """Parameters to train, and the model with them in place."""

    parameters: list[nn.Parameter]
    """float32, whatever the model is."""

    def running(self) -> list[Tensor]:
        """The parameters in the dtype of the model, as they were when it last had them in place."""

    def in_place(self) -> AbstractContextManager[None]:
        """Let the model run with the parameters as they are now; afterwards it has its own again."""

    def repair(self) -> Repair:
        """What they change in the model; copies."""


class WholeWeights:
    """Weights of the model, trained as they are.

    Args:
        model: whose weights.
        names: of them.
    """

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        own = dict(model.named_parameters())
        self._model, self._names, self._own = model, tuple(names), {name: own[name] for name in names}
        self.parameters = [nn.Parameter(self._own[name].detach().float().clone()) for name in names]
        self._running: list[nn.Parameter] = []

    def beginning_at(self, weights: Mapping[str, Tensor]) -> "WholeWeights":
        """The same with the values that some of them have been given before."""
        with torch.no_grad():
            for name, parameter in zip(self._names, self.parameters, strict=True):
                if name in weights:
                    parameter.copy_(weights[name])
        return self

    def running(self) -> list[Tensor]:
        """See :class:`Trainable`."""
        return list(self._running)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """See :class:`Trainable`."""
        self._running = [
            nn.Parameter(parameter.detach().to(self._own[name].dtype))
            for name, parameter in zip(self._names, self.parameters, strict=True)
        ]
        try:
            self._put(dict(zip(self._names, self._running, strict=True)))
            yield
        finally:
            self._put(self._own)

    def _put(self, weights: Mapping[str, nn.Parameter]) -> None:
        for name, weight in weights.items():
            path, _, own = name.rpartition(".")
            self._model.get_submodule(path)._parameters[own] = weight

    def repair(self) -> Repair:
        """See :class:`Trainable`."""
        found = zip(self._names, self.parameters, strict=True)
        with torch.no_grad():
            return Repair(weights={name: p.detach().to(self._own[name].dtype, copy=True) for name, p in found})


class Several:
    """Several trainables as one."""

    def __init__(self, members: Sequence[Trainable]) -> None:
        self._members = members
        self.parameters = [parameter for member in members for parameter in member.parameters]

    def running(self) -> list[Tensor]:
        """See :class:`Trainable`."""
        return [tensor for member in self._members for tensor in member.running()]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """See :class:`Trainable`."""
        with ExitStack() as stack:
            for member in self._members:
                stack.enter_context(member.in_place())
            yield

    def repair(self) -> Repair:
        """See :class:`Trainable`."""
        return reduce(or_, (member.repair() for member in self._members), Repair())


def trained_modules(architecture: Architecture, plan: PrunePlan, blocks: Sequence[int]) -> set[nn.Module]:
    """The modules that these blocks run under a plan."""
    silent = {m for b in blocks for sublayer in architecture.removed_by(b, plan.action(b)) for m in sublayer.modules()}
    return {module for block in blocks for module in architecture.blocks[block].modules()} - silent
