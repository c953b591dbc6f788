"""Modules that stand in gaps, trained end to end with the model around them."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from searcher.replay.repair import Place, Repair, ReplacementModule
from searcher.replay.replay import Replay


class Inserted:
    """Replacement modules as something to train; see :class:`searcher.healing.trainable.Trainable`.

    Args:
        replay: runs them.
        after: the modules as they begin, in the model's dtype; they are changed.
    """

    def __init__(self, replay: Replay, after: Mapping[Place, ReplacementModule]) -> None:
        self._replay, self._after = replay, dict(after)
        self.parameters = [nn.Parameter(weight.detach().float().clone()) for _, _, weight in self._weights()]

    def running(self) -> list[Tensor]:
        """See :class:`searcher.healing.trainable.Trainable`."""
        return [weight for _, _, weight in self._weights()]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """See :class:`searcher.healing.trainable.Trainable`."""
        before = self._replay.after
        for (module, name, weight), parameter in zip(list(self._weights()), self.parameters, strict=True):
            module._parameters[name] = nn.Parameter(parameter.detach().to(weight.dtype))
        try:
            self._replay.after = {**before, **self._after}
            yield
        finally:
            self._replay.after = before

    @torch.no_grad()
    def repair(self) -> Repair:
        """See :class:`searcher.healing.trainable.Trainable`."""
        for (_, _, weight), parameter in zip(list(self._weights()), self.parameters, strict=True):
            weight.copy_(parameter)
        copies = {place: ReplacementModule(copy_of(one.module), one.like) for place, one in self._after.items()}
        for one in copies.values():
            one.module.requires_grad_(False)
        return Repair(after=copies)

    def _weights(self) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
        """Every weight of the modules, with what has it and under which name."""
        for one in self._after.values():
            for module in one.module.modules():
                for name, weight in module._parameters.items():
                    if weight is not None:
                        yield module, name, weight


def copy_of(module: nn.Module) -> nn.Module:
    """A copy with the model's own config, where per-layer lists may be shortened."""
    configs = [vars(part)["config"] for part in module.modules() if "config" in vars(part)]
    return copy.deepcopy(module, {id(config): config for config in configs})
