"""Models of the sizes that people use, randomly initialised on the device: nothing is downloaded, and nothing of it is
slower or faster than in a trained one."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import Opened, opened
from benchmarks.setting import Setting
from searcher.architecture.devices import bytes_free, choose_device
from searcher.contracts.plan import Granularity
from searcher.errors import UsageError
from searcher.loading.model import LoadedModel, choose_dtype
from searcher.testing import tiny_tokenizer

COLUMNS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
SHAPES = {
    "tiny": (64, 192, 6, 4, 2, 256),
    "1b": (2048, 8192, 16, 32, 8, 128256),
    "3b": (3072, 8192, 28, 24, 8, 128256),
    "7b": (4096, 11008, 32, 32, 32, 32000),
    "13b": (5120, 13824, 40, 40, 40, 32000),
    "70b": (8192, 28672, 80, 64, 8, 128256),
}
"""Widths of models of the Llama family, by what they are called; `tiny` is there to try the benchmark."""


def open_shape(shape: str, setting: Setting) -> Opened:
    """A random model of a shape, on the setting's device and in its dtype, with windows of random tokens.

    Raises:
        UsageError: there is no such shape or device, or the weights do not fit there.
    """
    config = config_of(shape)
    device = choose_device(setting.device)
    dtype = choose_dtype(setting.dtype, device)
    _refuse_too_large(shape, config, dtype, device)
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=dtype).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (setting.windows, setting.window_tokens), generator=generator)
    loaded = LoadedModel(model, tiny_tokenizer(), f"random {shape}", "", device, dtype)
    return opened(loaded, ids, Granularity.BLOCK)


def config_of(shape: str) -> LlamaConfig:
    """The config of a shape.

    Raises:
        UsageError: there is none of that name.
    """
    if shape not in SHAPES:
        raise UsageError(f"Shape '{shape}' is not known", f"Choose one of {', '.join(SHAPES)}")
    return LlamaConfig(**dict(zip(COLUMNS, SHAPES[shape], strict=True)), tie_word_embeddings=False)


def _refuse_too_large(shape: str, config: LlamaConfig, dtype: torch.dtype, device: torch.device) -> None:
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in LlamaForCausalLM(config).parameters()) * dtype.itemsize
    if weights > bytes_free(device):
        free = bytes_free(device) / 2**30
        raise UsageError(
            f"Weights of shape {shape} take {weights / 2**30:.1f} GiB, and {free:.1f} are free on {device}",
            "Choose a smaller --shape",
        )
