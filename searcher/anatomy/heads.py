"""How alike the attention heads within a block are: cosines of their mean outputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from searcher.anatomy.work import Done, at_work, ignore
from searcher.contracts.cost import Cost
from searcher.contracts.plan import Action
from searcher.replay.batching import in_groups
from searcher.replay.replay import Replay

TINY = 1e-8
"""The least product of norms that a dot product is divided by, as in `torch.cosine_similarity`."""

Called = list[tuple[nn.Module, int]]
"""Linear layers that ran, and how many numbers each has read."""


@dataclass(frozen=True)
class Pair:
    """Two heads of a block, and the cosine of their mean outputs."""

    block: int
    heads: tuple[int, int]
    cosine: float


@dataclass(frozen=True, eq=False)
class Heads:
    """The similarity of heads.

    Attributes:
        cosines: by block, float64 (heads, heads); None where the block's heads were not found.
        reasons: by block that has none, why.
    """

    cosines: tuple[NDArray[np.float64] | None, ...]
    reasons: dict[int, str]

    def pairs(self, threshold: float) -> tuple[Pair, ...]:
        """Pairs of heads more alike than this, by block, the most alike first."""
        return tuple(
            pair
            for block, cosines in enumerate(self.cosines)
            if cosines is not None
            for pair in sorted(_pairs(block, cosines, threshold), key=lambda pair: (-pair.cosine, pair.heads))
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name: (blocks, heads, heads), NaN where there are none, or fewer."""
        most = max((len(cosines) for cosines in self.cosines if cosines is not None), default=0)
        filled = np.full((len(self.cosines), most, most), np.nan)
        for block, cosines in enumerate(self.cosines):
            if cosines is not None:
                filled[block, : len(cosines), : len(cosines)] = cosines
        return {"cosines": filled}

    def facts(self) -> dict[str, Any]:
        """JSON."""
        counts = [0 if cosines is None else len(cosines) for cosines in self.cosines]
        return {"heads": counts, "not_found": {str(block): reason for block, reason in self.reasons.items()}}


def cost(num_blocks: int, windows: int) -> Cost:
    """What measuring costs: one dense pass."""
    return Cost(layer_forwards=float(windows * num_blocks))


def measure_heads(replay: Replay, ids: Tensor, done: Done = ignore) -> Heads:
    """Measure the similarity of the heads within each block of the dense model.

    A head's output is its slice of what enters the attention's output projection: there a head of grouped-query
    attention, too, is one of the query heads, of which several share keys and values. The slices are averaged over all
    tokens of all windows, and cos(x1, x2) = x1 x2 / max(|x1| |x2|, 1e-8) is that of two averages.

    The output projection is the last linear layer that runs in the attention module. It must read as many numbers as
    the config's heads have together; in a block where it does not, or which has no attention, heads are not found.

    Args:
        replay: the model.
        ids: int64 (windows, tokens), none of them padding.
        done: told how far it is.
    """
    groups = in_groups(ids.to(replay.model.device))
    projections, reasons = _find_projections(replay, groups[0][:1])
    sums: dict[int, Tensor] = {}
    for group in groups:
        with at_work(), _inputs_added(projections, sums):
            hidden = replay.embed(group)
            for block in range(replay.num_blocks):
                hidden = replay.run_block(hidden, block, Action.KEEP)
        done(len(group) / len(ids))
    heads = replay.model.config.get_text_config(decoder=True).num_attention_heads if sums else 0
    cosines = {block: _cosines((total / ids.numel()).view(heads, -1)) for block, total in sums.items()}
    return Heads(tuple(cosines.get(block) for block in range(replay.num_blocks)), reasons)


def _pairs(block: int, cosines: NDArray[np.float64], threshold: float) -> Iterator[Pair]:
    for one, other in zip(*np.triu_indices(len(cosines), 1), strict=True):
        if cosines[one, other] > threshold:
            yield Pair(block, (int(one), int(other)), float(cosines[one, other]))


def _cosines(outputs: Tensor) -> NDArray[np.float64]:
    """(heads, head size) to (heads, heads)."""
    norms = outputs.norm(dim=-1)
    found: NDArray[np.float64] = ((outputs @ outputs.T) / (norms[:, None] * norms).clamp(min=TINY)).cpu().numpy()
    return found


def _find_projections(replay: Replay, ids: Tensor) -> tuple[dict[int, nn.Module], dict[int, str]]:
    """The output projections by block, and for the other blocks why there is none, from one dense pass."""
    projections: dict[int, nn.Module] = {}
    reasons: dict[int, str] = {}
    config = replay.model.config.get_text_config(decoder=True)
    with at_work():
        hidden = replay.embed(ids)
        for block, attention in enumerate(replay.architecture.attention):
            with _order_of(attention) as called:
                hidden = replay.run_block(hidden, block, Action.KEEP)
            reason = _reason_against(config, attention, called)
            if reason is None:
                projections[block] = called[-1][0]
            else:
                reasons[block] = reason
    return projections, reasons


def _reason_against(config: Any, attention: nn.Module | None, called: Called) -> str | None:
    """Why the last linear layer that ran is not one that reads the outputs of all heads; None if it is."""
    heads = getattr(config, "num_attention_heads", None)
    if attention is None:
        return "it has no attention module"
    if not heads:
        return "the config says no number of attention heads"
    if not called:
        return "no linear layer runs in its attention module"
    stated = (getattr(config, name, None) for name in ("v_head_dim", "head_dim"))
    size = next((size for size in stated if size), config.hidden_size // heads)
    read = called[-1][1]
    if read == heads * size:
        return None
    return f"the last linear layer of its attention reads {read} numbers, not {heads} heads of {size}"


@contextmanager
def _order_of(attention: nn.Module | None) -> Iterator[Called]:
    """The linear layers in a module, in the order in which they run."""
    called: Called = []
    modules = [] if attention is None else [module for module in attention.modules() if _is_linear(module)]

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        called.append((module, args[0].shape[-1]))

    handles = [module.register_forward_pre_hook(note) for module in modules]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def _is_linear(module: nn.Module) -> bool:
    """Whether it is one, be it called `Linear`, `Conv1D` or something quantised: a leaf with a matrix for a weight."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2 and not list(module.children())


@contextmanager
def _inputs_added(projections: dict[int, nn.Module], sums: dict[int, Tensor]) -> Iterator[None]:
    """Add what enters the projections, over rows and tokens, to the float64 sums of their blocks."""

    def adding(block: int) -> Callable[..., None]:
        def add(_module: nn.Module, args: tuple[Any, ...]) -> None:
            here = args[0].flatten(0, -2).sum(dim=0, dtype=torch.float64)
            sums[block] = sums[block] + here if block in sums else here

        return add

    handles = [module.register_forward_pre_hook(adding(block)) for block, module in projections.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
