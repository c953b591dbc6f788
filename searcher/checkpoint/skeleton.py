"""The model of a checkpoint without its weights: on torch's device `meta`, where tensors have a shape and no bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from searcher.architecture.blocks import Architecture, find_architecture, path_of
from searcher.architecture.packed_weights import count_parameters
from searcher.contracts.amounts import Amounts
from searcher.loading.pretrained import BROKEN, quietly
from searcher.replay.footprint import cache_bytes


@dataclass(frozen=True, eq=False)
class Skeleton:
    """What a model is made of.

    Attributes:
        model: on the device `meta`.
        architecture: where it keeps its blocks.
        path: of the list of blocks among its modules.
        info: what transformers says of the names in the files; None where it was not asked.
    """

    model: Any
    architecture: Architecture
    path: str
    info: Mapping[str, Any] | None

    @property
    def num_blocks(self) -> int:
        """How many blocks it has."""
        return self.architecture.num_blocks

    def names_in_blocks(self) -> set[str]:
        """Names of the parameters of blocks, within the block."""
        return {name for block in self.architecture.blocks for name, _ in block.named_parameters()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all parameters, by name."""
        return {name: tuple(one.shape) for name, one in self.model.named_parameters()}

    def parameters(self) -> Amounts:
        """How many parameters the model and each block have; sublayers are not told apart."""
        blocks = tuple(float(count_parameters([block])) for block in self.architecture.blocks)
        none = (0.0,) * len(blocks)
        return Amounts(float(count_parameters([self.model])), blocks, none, none)

    def cache(self, tokens: int) -> Amounts | None:
        """Bytes of key-value cache for each token, over so many; None if the model cannot be run without its weights.

        See :func:`searcher.replay.footprint.measure_amounts`.
        """
        ids, config = torch.zeros((1, tokens), dtype=torch.int64, device="meta"), self.model.config
        own = vars(config).get("pad_token_id")
        try:
            vars(config)["pad_token_id"] = None  # else some models look for it in the text
            with torch.inference_mode(), quietly():
                done = self.model(input_ids=ids, use_cache=True)
            blocks = tuple(cache_bytes(layer) / tokens for layer in done.past_key_values.layers)
        except BROKEN:  # whatever a model does that needs values
            return None
        finally:
            vars(config)["pad_token_id"] = own
        none = (0.0,) * len(blocks)
        return Amounts(sum(blocks), blocks, none, none) if len(blocks) == self.num_blocks else None


def read_skeleton(folder: Path, dtype: torch.dtype, trust: bool) -> Skeleton:
    """The model of a folder as transformers builds it, and whether the names and shapes in the files fit it.

    transformers reads headers only, and applies its own conversions of names, such as those of fused experts.

    Args:
        folder: of the checkpoint.
        dtype: of most weights.
        trust: whether to run modelling code that comes with it.
    """
    with quietly():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map="meta",
            dtype=dtype,
            trust_remote_code=trust,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which are then refused by name
        )
    return _skeleton(model, info)


def plain_skeleton(folder: Path, dtype: torch.dtype, trust: bool) -> Skeleton:
    """The model that a quantised checkpoint was made of; what is in its files is not looked at."""
    with quietly():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        for one in (config, config.get_text_config(decoder=True)):
            vars(one).pop("quantization_config", None)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust)
    return _skeleton(model, None)


def _skeleton(model: Any, info: Mapping[str, Any] | None) -> Skeleton:
    model.eval().requires_grad_(False)
    architecture = find_architecture(model)
    return Skeleton(model, architecture, path_of(model, architecture.blocks), info)
