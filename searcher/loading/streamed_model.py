"""A model whose blocks are read from the disk each time they run, so that it may be larger than memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from searcher.architecture.blocks import find_architecture, path_of
from searcher.architecture.custom_model import find_notes
from searcher.architecture.devices import bytes_free, bytes_taken, choose_device, may_spread, seen
from searcher.architecture.streamed_modules import put_tensor, stream, stream_rows
from searcher.errors import UsageError
from searcher.loading.dtypes import weight_bytes, weight_files
from searcher.loading.free_memory import RESERVE
from searcher.loading.lazy_checkpoint import LazyCheckpoint
from searcher.loading.pretrained import BROKEN
from searcher.loading.special_checkpoints import packed_by, read_config
from searcher.loading.weight_store import WeightStore

FREE_SHARE = 0.8
"""Of what memory is free, for weights that may stay."""
LARGE = 16 << 20
"""Bytes from which an embedding or the output head is not kept in memory all the time."""


@dataclass(frozen=True)
class StreamedModel:
    """A model without weights in its blocks, and where these come from.

    Attributes:
        model: runs like any other; blocks, large embeddings and a large head have their weights while they run.
        store: the weights of its blocks and head.
        info: what transformers had to say on the names and shapes of the tensors.
    """

    model: PreTrainedModel
    store: WeightStore
    info: Mapping[str, Any]


def open_streamed(
    folder: Path, location: str, dtype: torch.dtype, device: torch.device, name: str, options: Mapping[str, Any]
) -> StreamedModel:
    """A streamed model of a checkpoint in safetensors.

    Args:
        folder: of the checkpoint.
        location: what transformers calls it.
        dtype: of the weights in the model.
        device: where it computes.
        name: what tables call it.
        options: of `from_pretrained`: revision, trust in its own code.

    Raises:
        UsageError: the weights are in no safetensors files.
    """
    refuse_unstreamable(folder, name)
    with torch.inference_mode(False):  # what is put into the model must be no inference tensors
        return _open(folder, location, dtype, device, name, options)


def _open(
    folder: Path, location: str, dtype: torch.dtype, device: torch.device, name: str, options: Mapping[str, Any]
) -> StreamedModel:
    config = AutoConfig.from_pretrained(location, **options)
    with init_empty_weights(include_buffers=False):
        trust = {"trust_remote_code": True} if options.get("trust_remote_code") else {}
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, **trust)
    checkpoint = LazyCheckpoint(folder, location, dtype, device, name, options)
    _load_what_stays(model, checkpoint, device)
    store = _stream_parts(model, checkpoint, device)
    model.eval().requires_grad_(False)
    return StreamedModel(model, store, checkpoint.info)


def must_stream(folder: Path, dtype: torch.dtype | str, device: str, memory: int | None) -> bool:
    """Whether a checkpoint's weights are too large for where they would be, and can be streamed.

    Args:
        folder: of the checkpoint.
        dtype: of the weights in memory; a name for that of the checkpoint.
        device: where the model is to compute, as a user names it; where that leaves several open, all count.
        memory: bytes that this process may take on each device; by default four fifths of what is free.
    """
    try:
        size = weight_bytes(folder, None if isinstance(dtype, str) else dtype)
    except BROKEN:  # loading it will tell what is wrong
        return False
    first = choose_device(device)
    places = [torch.device(first.type, index) for index in range(seen()[1])] if may_spread(device) else [first]
    rooms = (
        FREE_SHARE * bytes_free(place) if memory is None else memory - bytes_taken(place) - RESERVE for place in places
    )
    return size > sum(rooms) and _why_not(folder) is None


def can_stream(folder: Path) -> bool:
    """Whether parts of a checkpoint can be read alone."""
    return _why_not(folder) is None


def refuse_unstreamable(folder: Path, name: str) -> None:
    """Refuse a checkpoint of which parts cannot be read alone.

    Raises:
        UsageError: its weights are not in safetensors, are packed, or those of a form of searcher's own.
    """
    if (reason := _why_not(folder)) is not None:
        raise UsageError(f"Model '{name}' cannot be streamed: {reason[0]}", f"{reason[1]}, or use --weights resident")


def _why_not(folder: Path) -> tuple[str, str] | None:
    """Why a checkpoint cannot be streamed, and what to do; None if it can."""
    pickled = next((path for path in weight_files(folder) if path.suffix != ".safetensors"), None)
    if pickled is not None:
        return f"{pickled.name} can only be read whole", "Save it once with save_pretrained, which writes safetensors"
    if find_notes(folder):
        return "its blocks differ, as searcher has exported it", "Stream the model that it was made from, with --plan"
    if packed_by(folder, read_config(folder, folder.name)):
        return "its weights are quantised, and are put together when they are loaded", "Pass plain weights"
    return None


def _load_what_stays(model: PreTrainedModel, checkpoint: LazyCheckpoint, device: torch.device) -> None:
    """Give the model what is neither of a block nor large: norms, small embeddings, buffers."""
    blocks = [f"{path_of(model, block)}." for block in find_architecture(model).blocks]
    large = {f"{path_of(model, module)}.weight" for module in _large(model)}
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **model.state_dict(keep_vars=True)}
    wanted = [key for key in tensors if not key.startswith(tuple(blocks)) and key not in large]
    source = {key: checkpoint.source_of(key) for key in wanted}
    found = checkpoint.read_tensors(set(source.values()))
    for key in wanted:
        if source[key] in found:
            put_tensor(model, key, found[source[key]])
    for key, buffer in model.named_buffers():
        if buffer.device.type != "meta":
            put_tensor(model, key, buffer.to(device))


def _stream_parts(model: PreTrainedModel, checkpoint: LazyCheckpoint, device: torch.device) -> WeightStore:
    """Let blocks, a large head and large embeddings read their weights when they run."""
    large, head = _large(model), model.get_output_embeddings()
    modules: dict[str, nn.Module] = {path_of(model, block): block for block in find_architecture(model).blocks}
    if head in large:
        source = checkpoint.source_of(f"{path_of(model, head)}.weight")
        modules[source.rpartition(".")[0]] = head
    store = WeightStore(checkpoint, tuple(modules))
    for part, module in modules.items():
        stream(module, partial(store.tensors, part))
    for module in large:
        if isinstance(module, nn.Embedding):
            weight = checkpoint.source_of(f"{path_of(model, module)}.weight")
            module.padding_idx = None  # of no use but for gradients, and there may be fewer rows
            nothing = torch.zeros((), dtype=module.weight.dtype, device=device)  # so that the model has its device
            put_tensor(module, "weight", nothing.expand(module.weight.shape))
            stream_rows(module, partial(checkpoint.rows, weight))
    return store


def _large(model: PreTrainedModel) -> list[nn.Module]:
    """Embeddings that look ids up, and the head, if they are large and a plain matrix each."""
    blocks = {module for block in find_architecture(model).blocks for module in block.modules()}
    head = model.get_output_embeddings()
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding) and m not in blocks]
    of_tokens = model.get_input_embeddings()  # may do more than look up; of others that do, nothing is known
    found: list[nn.Module] = [m for m in embeddings if m is of_tokens or type(m).forward is nn.Embedding.forward]
    if type(head) is nn.Linear:
        found.append(head)
    return [module for module in found if module.weight.nbytes > LARGE]  # type: ignore[operator]
