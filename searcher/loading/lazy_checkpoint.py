"""A checkpoint whose tensors stay on disk until they are wanted, a block at a time.

What transformers does while it loads a whole model (renaming, fusing experts, choosing dtypes) it does here for the
tensors of one part: they are put into a model that lies on the device `meta`, taken out again and replaced by what was
there.
"""

import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig

from searcher.architecture.streamed_modules import put_tensor
from searcher.loading.dtypes import weight_files
from searcher.loading.mapped_memory import give_back, read_ahead
from searcher.loading.pretrained import refuse_not_finite, without_bars

Part = str
"""The name of a module whose tensors are read together, such as `model.layers.3`."""


class LazyCheckpoint:
    """Reads the tensors of a part of a model, in the dtype and with the names that the model wants.

    For use by one thread at a time; a lock sees to it.

    Args:
        folder: of the checkpoint, in safetensors.
        location: what transformers calls it.
        dtype: of the weights in the model.
        device: where tensors are wanted.
        name: of the model, for messages.
        options: of `from_pretrained`: revision, trust in its own code.

    Attributes:
        folder: of the checkpoint.
        model: transformers' model of this checkpoint, all of it on the device `meta`.
        info: what transformers had to say on the names and shapes of the tensors.
    """

    def __init__(
        self,
        folder: Path,
        location: str,
        dtype: torch.dtype,
        device: torch.device,
        name: str,
        options: Mapping[str, Any],
    ) -> None:
        self.folder, self._finite = folder, set[Part]()
        self._name, self._device, self._lock = name, device, threading.Lock()
        self.model, self.info = AutoModelForCausalLM.from_pretrained(
            location,
            dtype=dtype,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which are then refused by name
            **options,
        )
        self._loading = LoadStateDictConfig(
            device_map={"": device},
            dtype=dtype,
            dtype_plan=self.model._get_dtype_plan(dtype),
            weight_mapping=get_model_conversion_mapping(self.model),
        )
        files: list[Any] = [safe_open(path, "pt", backend="mmap") for path in weight_files(folder)]
        self._stored: dict[str, Tensor] = {key: file.get_slice(key)[...] for file in files for key in file.keys()}  # noqa: SIM118
        self._targets = dict(self._renamed())

    def _renamed(self) -> Iterator[tuple[str, str]]:
        """Every tensor of the files with its name in the model; where several become one, with that one's."""
        mapping = self._loading.weight_mapping or []
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        prefix, wanted = self.model.base_model_prefix, self.model.state_dict()
        for key in self._stored:
            renamed, _ = rename_source_key(key, renamings, converters, prefix, wanted)
            if renamed not in wanted and key in wanted:
                renamed, _ = rename_source_key(key, [], [], base_model_prefix=prefix, meta_state_dict=wanted)
            yield key, renamed

    def stored_bytes(self, part: Part) -> int:
        """Bytes that are read for a part."""
        return sum(self._stored[key].nbytes for key in self._keys(part))

    def bytes(self, part: Part) -> int:
        """Bytes of a part in memory, in the dtype of the model."""
        return sum(tensor.nbytes for tensor in self.model.get_submodule(part).parameters())

    def read(self, part: Part) -> dict[str, Tensor]:
        """The tensors of a part, named as within its module.

        Raises:
            UsageError: one of them is not finite.
            OSError, SafetensorError: a file cannot be read.
        """
        found = self._load(self._keys(part))
        if part not in self._finite:
            refuse_not_finite(found.items(), self._name)
            self._finite.add(part)
        return {name.removeprefix(f"{part}."): tensor for name, tensor in found.items()}

    def _keys(self, part: Part) -> list[str]:
        return [key for key, target in self._targets.items() if target.startswith(f"{part}.")]

    def _load(self, keys: list[str]) -> dict[str, Tensor]:
        """Let transformers put these tensors into its empty model, and take them out again."""
        state = {key: self._stored[key] for key in keys}
        for tensor in state.values():
            read_ahead(tensor)
        with self._lock, without_bars():
            before = dict(self._tensors())
            convert_and_load_state_dict_in_model(self.model, state, self._loading)
            found = {name: tensor for name, tensor in self._tensors() if tensor is not before[name]}
            for name in found:
                put_tensor(self.model, name, before[name])
        used = {tensor.data_ptr() for tensor in found.values()}
        for tensor in state.values():
            if tensor.data_ptr() not in used:  # it was converted, and what became of it has its own memory
                give_back(tensor)
        return {name: tensor.detach() for name, tensor in found.items()}

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.named_parameters(remove_duplicate=False)
        yield from self.model.named_buffers(remove_duplicate=False)

    def source_of(self, name: str) -> str:
        """The name of the tensor that a parameter is read from: another one's where they are tied."""
        tied: str = self.model.all_tied_weights_keys.get(name, name)
        return name if name in self._targets.values() else tied

    def read_tensors(self, names: Collection[str]) -> dict[str, Tensor]:
        """Tensors by their names in the model, as far as the checkpoint has them.

        Raises:
            UsageError: one of them is not finite.
        """
        found = self._load([key for key, target in self._targets.items() if target in names])
        refuse_not_finite(found.items(), self._name)
        return {name: tensor.clone() for name, tensor in found.items()}  # these stay, and should not keep pages mapped

    def rows(self, parameter: str, numbers: Tensor) -> Tensor:
        """Rows of a matrix that the model has as it is stored; int64 (count,) to (count, width)."""
        key = next(key for key, target in self._targets.items() if target == parameter)
        rows: Tensor = self._stored[key][numbers.cpu()].to(self._device, self.model.get_parameter(parameter).dtype)
        give_back(self._stored[key])
        return rows

    def give_back(self, part: Part) -> None:
        """Let the memory go that a part's tensors are mapped to; who uses them nevertheless has them read again."""
        for key in self._keys(part):
            give_back(self._stored[key])
