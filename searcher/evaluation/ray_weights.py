"""A model in Ray's object store: on a CPU the actors of a machine read its weights there, without a copy."""

import os
import sys
import warnings
from typing import Any

import torch
from torch import Tensor

from searcher.evaluation.executor import Executor
from searcher.evaluation.ray_session import import_ray
from searcher.loading.environment import environment


def put(local: Executor) -> Any:
    """The model and what is measured on it, in the object store."""
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
        return ray.put(
            {
                "replay": replay,
                "groups": local.groups,
                "prices": local.evaluator.prices,
                "facts": local.evaluator.facts,
                "healing": local.evaluator.healer and local.evaluator.healer.text,
                "window_tokens": local.evaluator.window_tokens,
                "device_type": replay.model.device.type,
                "environment": environment(replay.model.device),
                "folder": os.getcwd(),  # to which paths of plug-ins and files are relative
                "precision": torch.get_float32_matmul_precision(),
            }
        )
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
