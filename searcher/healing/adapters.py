"""LoRA layers of peft around linear layers of a model, which has them only while they are trained."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from searcher.architecture.blocks import Architecture
from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.healing.trainable import trained_modules
from searcher.replay.repair import LowRank, Repair

ADAPTER = "default"
"""What peft calls the only adapter of a layer."""
Layers = Mapping[str, nn.Linear | Conv1D]
"""Linear layers by their names in the dense model."""


@dataclass(frozen=True)
class AdapterOptions:
    """What adapters are like; the names are peft's.

    Attributes:
        rank: of the added matrices.
        alpha: the product is multiplied with alpha / rank, or, with `rslora`, with alpha / sqrt(rank).
        rslora: rank-stabilised (Kalajdzievski 2023, arXiv:2312.03732).
        dora: the length of each row of a weight is trained apart from its direction (Liu et al. 2024,
            arXiv:2402.09353).
        seed: draws the first matrices.
    """

    rank: int
    alpha: float
    rslora: bool = False
    dora: bool = False
    seed: int = 0

    @property
    def scale(self) -> float:
        """What the product is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def find_layers(model: nn.Module, architecture: Architecture, plan: PrunePlan, blocks: Sequence[int]) -> Layers:
    """The linear layers that these blocks run under a plan, by their names in the model."""
    inside = trained_modules(architecture, plan, blocks)
    return {name: module for name, module in model.named_modules() if module in inside and _is_linear(module)}


def _is_linear(module: nn.Module) -> bool:
    """Whether it multiplies with its weight and does no more; routers of experts are derived from `Linear`, too."""
    if not isinstance(module, nn.Linear | Conv1D) or type(module) in (nn.Linear, Conv1D):
        return isinstance(module, nn.Linear | Conv1D)
    return isinstance(module(module.weight.new_zeros(1, module.weight.shape[1])), Tensor)


def choose_layers(layers: Layers, targets: str) -> Layers:
    """Those whose names end so: `q_proj+v_proj`, or `attn` for all below a module of that name; all where it is empty.

    Raises:
        UsageError: a name fits no layer.
    """
    if not targets:
        return layers
    chosen: dict[str, nn.Linear | Conv1D] = {}
    for target in targets.split("+"):
        found = {name: layer for name, layer in layers.items() if _names(target, name)}
        if not found:
            known = dict.fromkeys(name.rpartition(".")[2] for name in layers)
            raise UsageError(
                f"target_modules '{target}' is no linear layer of the blocks that are trained",
                f"There are: {', '.join(known)}; write several as {'+'.join(list(known)[:2])}",
            )
        chosen |= found
    return {name: layer for name, layer in layers.items() if name in chosen}


def _names(target: str, name: str) -> bool:
    return re.search(rf"(^|\.){re.escape(target)}(\.|$)", name) is not None


class Adapters:
    """peft's LoRA layers around some of a model's linear layers; see :class:`searcher.healing.trainable.Trainable`.

    What is trained is float32, whatever the model is.

    Args:
        model: whose layers.
        layers: by name, those to adapt.
        options: what they are like.
        found: what has been learnt for some of the layers before, with the same options; not with `dora`.

    Attributes:
        parameters: of each layer a matrix (rank, columns) and one (rows, rank); with `dora` also lengths (rows,).
    """

    def __init__(
        self, model: Any, layers: Layers, options: AdapterOptions, found: Mapping[str, LowRank] | None = None
    ) -> None:
        self._layers, self._options = layers, options
        self._parents = {name: model.get_submodule(name.rpartition(".")[0]) for name in layers}
        self._adapted = dict(zip(layers, _wrapped(list(layers.values()), options), strict=True))
        self._generator = torch.Generator().manual_seed(options.seed)
        self.parameters: list[nn.Parameter] = []
        for name, adapted in self._adapted.items():
            begun = self._begin(adapted)
            before = (found or {}).get(f"{name}.weight")
            values = begun if before is None else self._learnt(name, before)
            own = layers[name].weight
            lengths = [_wide(layers[name]).norm(dim=1)] if options.dora else []
            self.parameters += [nn.Parameter(v.to(own.device).float().clone()) for v in (*values, *lengths)]

    def running(self) -> list[Tensor]:
        """See :class:`searcher.healing.trainable.Trainable`."""
        return [part.weight for adapted in self._adapted.values() for part in self._parts(adapted)]

    def factors(self) -> dict[str, LowRank]:
        """What is now added to the weights, by their names in the model, lengths apart; copies."""
        found = {}
        for name, (down, up, *_) in self._values():
            left, right = up.detach() * self._options.scale, down.detach().clone()  # (out, rank), (rank, in)
            turned = isinstance(self._layers[name], Conv1D)  # whose weight is (in, out)
            found[f"{name}.weight"] = LowRank(right.t(), left.t()) if turned else LowRank(left, right)
        return found

    @torch.no_grad()
    def repair(self) -> Repair:
        """See :class:`searcher.healing.trainable.Trainable`; with `dora`, whole weights."""
        if not self._options.dora:
            return Repair(added=self.factors())
        weights = {}
        for name, (down, up, lengths) in self._values():
            layer = self._layers[name]
            moved = _wide(layer) + self._options.scale * (up @ down)
            whole = moved * (lengths / moved.norm(dim=1))[:, None]
            turned = whole.t() if isinstance(layer, Conv1D) else whole
            weights[f"{name}.weight"] = turned.to(layer.weight.dtype).contiguous()
        return Repair(weights=weights)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """See :class:`searcher.healing.trainable.Trainable`.

        The model runs them in its own dtype: in float32 a step takes a quarter longer, and they are merged in the end
        anyway.
        """
        for name, values in self._values():
            for part, value in zip(self._parts(self._adapted[name]), values, strict=True):
                part.weight = nn.Parameter(value.detach().to(self._layers[name].weight.dtype))
        try:
            for name, parent in self._parents.items():
                parent._modules[name.rpartition(".")[2]] = self._adapted[name]
            yield
        finally:
            for name, parent in self._parents.items():
                parent._modules[name.rpartition(".")[2]] = self._layers[name]

    def _values(self) -> Iterator[tuple[str, Sequence[nn.Parameter]]]:
        """The parameters of each layer."""
        each = 3 if self._options.dora else 2
        for number, name in enumerate(self._layers):
            yield name, self.parameters[each * number : each * (number + 1)]

    def _parts(self, adapted: Any) -> list[Any]:
        """peft's modules that have these parameters as their weights."""
        halves = [adapted.lora_A[ADAPTER], adapted.lora_B[ADAPTER]]
        return [*halves, adapted.lora_magnitude_vector[ADAPTER]] if self._options.dora else halves

    def _begin(self, adapted: Any) -> tuple[Tensor, Tensor]:
        """As peft begins: a matrix drawn as that of any linear layer, and one of zeros."""
        down = torch.empty(adapted.r[ADAPTER], adapted.in_features)
        bound = 1 / math.sqrt(adapted.in_features)
        return down.uniform_(-bound, bound, generator=self._generator), torch.zeros(adapted.out_features, len(down))

    def _learnt(self, name: str, before: LowRank) -> tuple[Tensor, Tensor]:
        turned = isinstance(self._layers[name], Conv1D)
        left, right = (before.right.t(), before.left.t()) if turned else (before.left, before.right)
        return right, left / self._options.scale


def _wide(layer: nn.Linear | Conv1D) -> Tensor:
    """float32 (rows, columns) weight."""
    weight = layer.weight.detach().float()
    return weight.t() if isinstance(layer, Conv1D) else weight


def _wrapped(layers: Sequence[nn.Module], options: AdapterOptions) -> list[Any]:
    """peft's layers around these, with adapters that have no values yet; nothing else is touched."""
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds

    holder = nn.ModuleDict({str(number): layer for number, layer in enumerate(layers)})
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # annotated int, used as a number
        target_modules=r"\d+",
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in layers),
        use_rslora=options.rslora,
        use_dora=options.dora,
    )
    trained = [(p, p.requires_grad) for p in holder.parameters()]
    try:
        with torch.device("meta"):  # where nothing is drawn from the generator that all threads share
            inject_adapter_in_model(config, holder, adapter_name=ADAPTER)
    finally:
        for parameter, before in trained:
            parameter.requires_grad_(before)
    return list(holder.values())
