"""Where the sublayers of a block leave what they add: weights by which all of it can be divided.

They are found by what the block does, whatever its names. With f what a sublayer adds to hidden states h, the weights
are right if halving them gives half of f(2h) for h: the block then does to the states what it did to twice of them, but
half as large. In pre-norm models it is so, with layer norms or root mean squares, attention and FFN in turn or side by
side; where a norm follows the sublayer, its weight takes the factor.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from searcher.architecture.blocks import path_of
from searcher.architecture.streamed_modules import present
from searcher.contracts.plan import Action
from searcher.replay.block_inputs import first, without
from searcher.replay.replay import Replay

TOLERANCE = 1e-2
"""Share of what is added that may differ. Twice the states and half the weights round alike, and only the small number
that a norm adds to a variance tells them apart; a part that does not take the factor is off by half of itself."""

ROUNDING = 1 / 16
"""Units in the last place of the states that may differ besides, on average: in bfloat16 a block may add only a few."""

NAMES = {Action.NO_ATTENTION: "attention", Action.NO_FFN: "FFN"}
"""Of the sublayer that each action removes."""


TRIALS = 6
"""Blocks that finding the exits of one runs, about: half of it for the most."""


class NoExitError(Exception):
    """Why a sublayer has none."""


@dataclass(frozen=True, eq=False)
class Exit:
    """The layer whose weights what a sublayer adds is proportional to.

    Attributes:
        name: of the layer within the block.
        layer: it.
        owner: the block.
        beyond: what the layer adds to its weight before it multiplies with it: 1 in norms that are written so, else 0.
    """

    name: str
    layer: nn.Module
    owner: nn.Module
    beyond: float = 0.0

    def divided(self, factor: float) -> dict[str, Tensor]:
        """Its parameters, by name within the block, if its output is to be divided by a factor."""
        with present(self.owner), torch.inference_mode(False):
            own = {name: parameter.detach().clone() for name, parameter in self.layer.named_parameters()}
            beyond = {"weight": self.beyond}
            return {
                f"{self.name}.{name}": _divided(parameter, factor, beyond.get(name, 0.0))
                for name, parameter in own.items()
            }


def _divided(parameter: Tensor, factor: float, beyond: float) -> Tensor:
    return ((parameter.double() + beyond) / factor - beyond).to(parameter.dtype)


def find_exits(replay: Replay, block: int, shape: torch.Size) -> dict[Action, Exit]:
    """The exits of a block's sublayers, by the action that removes them.

    Args:
        replay: runs the block.
        block: its number.
        shape: (rows, tokens, hidden size), rows and tokens of a text that was embedded.

    Raises:
        NoExitError: what the block adds cannot be divided so, with the reason.
    """
    known, parts = replay.outputs.sublayers, replay.architecture
    pairs = ((Action.NO_ATTENTION, parts.attention[block]), (Action.NO_FFN, parts.ffn[block]))
    sublayers = {action: part for action, part in pairs if part is not None and part in known}
    probe, exits = _probe(replay, block, shape), {}
    with present(replay.architecture.blocks[block]):  # read once, where weights are streamed
        _check(replay, block, probe, list(sublayers.values()), {}, "what it does beside its sublayers")
        for action, sublayer in sublayers.items():
            others = [part for part in sublayers.values() if part is not sublayer]
            exits[action] = _find_exit(replay, block, probe, sublayer, others, NAMES[action])
        halves = {name: weight for one in exits.values() for name, weight in one.divided(2).items()}
        _check(replay, block, probe, [], halves, "what it adds")
    return exits


def _find_exit(
    replay: Replay, block: int, probe: Tensor, sublayer: nn.Module, others: list[nn.Module], name: str
) -> Exit:
    """The first layer that will do, those nearest to where the block adds to the states first."""
    owner = replay.architecture.blocks[block]
    for layer in _candidates(replay, block, probe, sublayer, others):
        for beyond in (0.0, 1.0) if layer not in set(sublayer.modules()) else (0.0,):
            found = Exit(path_of(owner, layer), layer, owner, beyond)
            if _halved(replay, block, probe, others, found.divided(2)):
                return found
    raise NoExitError(f"what the {name} of block {block} adds is not proportional to the weights of one layer")


def _candidates(
    replay: Replay, block: int, probe: Tensor, sublayer: nn.Module, others: list[nn.Module]
) -> Iterator[nn.Module]:
    """A module of the block that is given what the sublayer returns, then layers whose output that is."""
    owner = replay.architecture.blocks[block]
    seen: list[tuple[nn.Module, Tensor | None, Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        given = args[0].clone() if args and isinstance(args[0], Tensor) else None
        seen.append((module, given, first(output).clone()))

    inside = [module for module in sublayer.modules() if isinstance(module, nn.Linear | Conv1D)]
    around = [module for module in owner.children() if module not in {sublayer, *others}]
    handles = [module.register_forward_hook(note) for module in dict.fromkeys((*inside, *around, sublayer))]
    try:
        replay.run_block_without(probe, block, others)
    finally:
        for handle in handles:
            handle.remove()
    end = next((number for number, (module, _, _) in enumerate(seen) if module is sublayer), None)
    if end is None:
        return
    returned = seen[end][2]
    yield from (module for module, given, _ in seen[end + 1 :] if _equal(given, returned) and _has_weight(module))
    yield from (module for module, _, output in seen[:end] if _equal(output, returned) and _has_weight(module))


def _has_weight(module: nn.Module) -> bool:
    """Whether it is a plain one, and all that the module has but a bias."""
    own = dict(module.named_parameters())
    return "weight" in own and own.keys() <= {"weight", "bias"} and own["weight"].is_floating_point()


def _equal(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and one.shape == other.shape and torch.equal(one, other)


def _probe(replay: Replay, block: int, shape: torch.Size) -> Tensor:
    """Hidden states of root mean square 1, beside which the small number in a norm does not count."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(replay.places[block], replay.model.dtype)


def _check(
    replay: Replay, block: int, probe: Tensor, removed: list[nn.Module], weights: Mapping[str, Tensor], what: str
) -> None:
    if not _halved(replay, block, probe, removed, weights):
        raise NoExitError(f"block {block} is not indifferent to the size of the hidden states ({what})")


def _halved(replay: Replay, block: int, probe: Tensor, removed: list[nn.Module], weights: Mapping[str, Tensor]) -> bool:
    """Whether a block without these sublayers adds, by these weights, half of what it adds to twice the states."""
    with without(replay.outputs, removed):
        run: Callable[..., Tensor] = replay.run_block_with if weights else replay.run_block_without
        half = run(probe, block, dict(weights) if weights else [])
        whole = replay.run_block_without(2 * probe, block, [])
    half, whole = 2 * (half - probe).float(), (whole - 2 * probe).float()
    rounding = ROUNDING * torch.finfo(probe.dtype).eps * 2 * probe.float().norm()
    return bool((half - whole).norm() <= TOLERANCE * whole.norm() + rounding)
