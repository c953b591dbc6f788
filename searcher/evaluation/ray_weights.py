"""A model in Ray's object store: on a CPU the actors of a machine read its weights there, without a copy."""

import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from searcher.contracts.cost import Prices
from searcher.evaluation.candidate import Facts
from searcher.evaluation.executor import Executor
from searcher.evaluation.groups import Groups
from searcher.evaluation.ray_session import import_ray
from searcher.loading.environment import environment
from searcher.loading.heal_text import HealText
from searcher.replay.replay import Replay


@dataclass(frozen=True, eq=False)
class Shipment:
    """What a worker is sent: the model, and what is measured on it.

    Attributes:
        replay: runs the model.
        groups: the token sequences.
        prices: relative FLOPs of the model's parts.
        facts: what candidates know of the model.
        healing: windows of the heal split, if plans are healed.
        window_tokens: tokens of a window.
        device_type: of the process that sends it.
        environment: of that process, which the worker's must equal.
        folder: to which paths of plug-ins and files are relative.
        precision: of float32 products.
        final: the same windows, if the best plans are healed otherwise.
    """

    replay: Replay
    groups: Groups
    prices: Prices
    facts: Facts
    healing: HealText | None
    window_tokens: int
    device_type: str
    environment: Mapping[str, Any]
    folder: str
    precision: str
    final: HealText | None = None


def put(local: Executor) -> Any:
    """A :class:`Shipment` in the object store."""
    ray = import_ray()
    from ray import cloudpickle
    from ray.util.serialization import deregister_serializer, register_serializer

    replay = local.evaluator.replay
    # a model's own code is known to the process that loaded it alone
    own_code = [module for name, module in list(sys.modules.items()) if name.startswith("transformers_modules.")]
    kinds = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
    for kind in kinds:
        register_serializer(kind, serializer=to_numpy, deserializer=from_numpy)
    for module in own_code:
        cloudpickle.register_pickle_by_value(module)
    try:
        healer, final = local.evaluator.healer, local.evaluator.final
        shipment = Shipment(
            replay=replay,
            groups=local.groups,
            prices=local.evaluator.prices,
            facts=local.evaluator.facts,
            healing=healer.text if healer else None,
            final=final.text if final else None,
            window_tokens=local.evaluator.window_tokens,
            device_type=replay.model.device.type,
            environment=environment(replay.model.device),
            folder=os.getcwd(),
            precision=torch.get_float32_matmul_precision(),
        )
        return ray.put(shipment)
    finally:
        for kind in kinds:
            deregister_serializer(kind)
        for module in own_code:
            cloudpickle.unregister_pickle_by_value(module)


Sent = tuple[Any, torch.dtype, tuple[int, ...], tuple[int, ...], bool]
"""Bytes, dtype, shape, strides, and whether it is a parameter."""


def to_numpy(tensor: Tensor) -> Sent:
    """A numpy array of the bytes, which pickle hands over without a copy, and how the tensor lies in them.

    The layout is kept: a transposed weight is multiplied in another order, and rounds differently.
    """
    plain = tensor.detach().cpu()
    last = sum((size - 1) * stride for size, stride in zip(plain.shape, plain.stride(), strict=True))
    if last + 1 != plain.numel():  # it has gaps, or overlaps
        plain = plain.contiguous()
    flat = plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)
    return flat.numpy(), tensor.dtype, tuple(plain.shape), plain.stride(), isinstance(tensor, torch.nn.Parameter)


def from_numpy(sent: Sent) -> Tensor:
    """The tensor again, in read-only memory that other processes share."""
    array, dtype, shape, stride, is_parameter = sent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the memory is read-only, and nothing writes weights
        flat = torch.from_numpy(array)
    if flat.data_ptr() % 64:  # as torch aligns its own; small arrays may lie anywhere in the store
        flat = flat.clone()
    tensor = flat.view(dtype).as_strided(shape, stride)
    return torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
