"""Loading a causal LM with its tokenizer: the embedded default, a GGUF file, a local folder or a hub id."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from searcher.architecture.custom_model import find_notes, load_custom
from searcher.architecture.devices import choose_device, computes_on_cpu, has_bfloat16, may_spread
from searcher.errors import UsageError, first_line
from searcher.loading.damage import find_damage, tokens_beyond
from searcher.loading.dtypes import stored_dtype, weight_bytes
from searcher.loading.model_source import ModelSource, find_source
from searcher.loading.pretrained import BROKEN, check_weights, quietly
from searcher.loading.quantise_on_load import check_library, quantise
from searcher.loading.quantised import Packing, not_run
from searcher.loading.special_checkpoints import (
    find_packing,
    in_one_dtype,
    loading_options,
    read_config,
)
from searcher.loading.spread import device_map, settle
from searcher.loading.streamed_model import must_stream, open_streamed, refuse_unstreamable
from searcher.loading.weight_store import WeightStore
from searcher.runs.config import Weights
from searcher.runs.fingerprint import packed_fingerprint

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
STORED = "stored"
"""The dtype of a checkpoint's own weights, whatever the device computes in; that of a GGUF file is what its weights
were dequantised to."""
_NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # as torch names what x86 and Arm processors can do


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM, ready to be measured: in eval mode, without gradients; on a device, spread over some, or streamed.

    Attributes:
        model: the transformers model.
        tokenizer: its tokenizer.
        name: what tables call it.
        fingerprint: changes when the weights or the config change; see :func:`load_model`.
        device: where the weights are; of several the first.
        dtype: what the weights were loaded as.
        folder: the checkpoint that it was loaded from: the user's, that of a commit in the hub's cache, or of a
            dequantised GGUF file in searcher's; None if it was made in memory.
        warnings: what a user should know of how it was loaded.
        packed: what packs its weights, such as `int8 by torchao 0.18.0`; empty if they are plain.
        store: where the weights of its blocks come from, if they are read from the disk each time they run.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    folder: Path | None = None
    warnings: tuple[str, ...] = ()
    packed: str = ""
    store: WeightStore | None = None

    @property
    def num_blocks(self) -> int:
        """How many decoder blocks the config says there are."""
        return int(self.model.config.get_text_config(decoder=True).num_hidden_layers)


def load_model(
    spec: str | None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    quantize: str | None = None,
    weights: Weights = "resident",
    memory: int | None = None,
) -> LoadedModel:
    """Load a causal LM and its tokenizer.

    The fingerprint of a hub model is its id and resolved commit; that of a GGUF file its sha256; that of a folder a
    sha256 over the config, any modelling code, and of every weight file the name, the size, the safetensors header
    and 16 evenly spaced pieces of 4 KiB of every tensor. Reading a folder of many gigabytes in full would take as
    long as loading it; a training step or a zeroed tensor changes every tensor it touches throughout. Where weights are
    packed, by `quantize` or by the checkpoint, it goes on with what packs them.

    Args:
        spec: a hub id, a local folder or a `.gguf` file; None for the embedded default. A GGUF file is dequantised
            once and kept in the cache as float32 safetensors.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run modelling code that comes with the checkpoint.
        dtype: `float32`, `bfloat16`, `float16` (or `fp32`, `bf16`, `fp16`); `auto` is bfloat16 where the device
            computes in it, else float32 on CPU and float16 elsewhere, but that of the config where the checkpoint's
            weights are packed; `stored` is that of the checkpoint.
        device: `cpu`, `cuda`, `cuda:1`, `xpu` and so on; `auto` is the accelerator if there is one, else the CPU. Where
            a name leaves open which of several is meant, a model that does not fit one of them is spread over all.
        quantize: `int8` or `int4` packs the weights of blocks as they are loaded.
        weights: `resident`: all on the device; `streamed`: on the disk, see :mod:`searcher.loading.streamed_model`;
            `auto`: streamed where they do not fit.
        memory: bytes that they must fit for `auto`; by default what is free, see
            :func:`searcher.loading.streamed_model.must_stream`.

    Raises:
        UsageError: an argument is wrong, or what it names holds no complete causal LM with a tokenizer.
    """
    chosen_device = choose_device(device)
    chosen_dtype = None if dtype == STORED else choose_dtype(dtype, chosen_device)
    if quantize is not None:
        check_library(quantize)
    source = find_source(spec, revision)
    packing = _find_packing(source, chosen_device, quantize)
    if packing is not None and dtype == "auto":  # what its scales and kernels are made for
        chosen_dtype = None
    options = {"revision": source.revision, "trust_remote_code": trust_remote_code}
    wanted = chosen_dtype or ("auto" if packing is not None else _stored(source))
    streams = _streams(source, wanted, device, weights, memory, quantize)
    store = None
    with quietly():
        if streams:
            model, warnings, store = _stream_weights(source, wanted, chosen_device, options)
        else:
            placement = {} if quantize is not None else _placement(source, chosen_dtype, device)
            model, warnings = _load_weights(source, wanted, chosen_device, placement, options, packing)
        tokenizer = _load_tokenizer(source, options)
        packed = "" if packing is None else packing.described
        if quantize is not None:
            packed, told = quantise(model, quantize, chosen_device, source.name)
            warnings += told
    model.eval().requires_grad_(False)
    _run_once(model, source, chosen_device, packing)
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit:  # a tokenizer read from a GGUF file knows of none
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=source.name,
        fingerprint=packed_fingerprint(source.fingerprint, packed),
        device=chosen_device,
        dtype=chosen_dtype or model.dtype,
        folder=source.folder,
        warnings=warnings,
        packed=packed,
        store=store,
    )


def load_tokenizer(spec: str | None, *, revision: str | None, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model alone, as :func:`load_model` finds both.

    Raises:
        UsageError: there is no such model, or it has no tokenizer.
    """
    source = find_source(spec, revision)
    with quietly():
        return _load_tokenizer(source, {"revision": source.revision, "trust_remote_code": trust_remote_code})


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of this name, or what suits the device. Raises UsageError for a name that is none."""
    if dtype in _DTYPES:
        return _DTYPES[dtype]
    if dtype != "auto":
        raise UsageError(f"dtype '{dtype}' is not known", f"Choose auto, {', '.join(_DTYPES)}")
    if computes_on_cpu(device):
        return torch.bfloat16 if _cpu_has_bf16() else torch.float32
    return torch.bfloat16 if has_bfloat16(device) else torch.float16


def _cpu_has_bf16() -> bool:
    """Whether this processor multiplies in bfloat16 natively; emulated it is slower than float32."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return False  # older torch cannot tell: float32 is safe
    return any(torch.cpu.get_capabilities().get(name) for name in _NATIVE_BF16)


def _stored(source: ModelSource) -> torch.dtype | str:
    with contextlib.suppress(*BROKEN):  # loading it will tell what is wrong
        return stored_dtype(source.folder) or "auto"
    return "auto"


def _find_packing(source: ModelSource, device: torch.device, quantize: str | None) -> Packing | None:
    """What packs the weights of a checkpoint that is run as it is, which is refused where that cannot be done."""
    loading_options(source.folder, source.name, device)
    packing = find_packing(source.folder, source.name, device)
    if packing is not None and quantize is not None:
        raise UsageError(
            f"--quantize {quantize} is for plain weights, but model '{source.name}' is quantised by {packing} already",
            "Leave --quantize out, or pass the checkpoint that it was made from",
        )
    return packing


def _placement(source: ModelSource, dtype: torch.dtype | None, device: str) -> dict[str, Any]:
    """Where `from_pretrained` is to put the weights."""
    chosen = choose_device(device)
    if computes_on_cpu(chosen):
        return {}  # a device map would add hooks for nothing
    spread, weights = {}, 0
    if may_spread(device):
        with contextlib.suppress(*BROKEN):  # loading it will tell what is wrong
            weights = weight_bytes(source.folder, dtype)
        spread = device_map(weights, chosen, source.name)
    return spread or {"device_map": {"": chosen}}  # tensor by tensor


def _load_weights(
    source: ModelSource,
    dtype: torch.dtype | str,
    device: torch.device,
    placement: dict[str, Any],
    options: dict[str, Any],
    packing: Packing | None,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model, and what a user should know of how it was loaded."""
    special = loading_options(source.folder, source.name, device)
    notes = find_notes(source.folder)
    with _readable(source, device, packing):
        if notes:
            model, info = load_custom(source.folder, notes, dtype, **placement)
        else:
            # shapes that do not fit are then refused by name
            more = {**special, **placement, **options, "ignore_mismatched_sizes": True}
            model, info = AutoModelForCausalLM.from_pretrained(
                source.location, dtype=dtype, output_loading_info=True, **more
            )
    settle(model, source.name)
    warnings = _warnings(source, model, info)
    if special:
        in_one_dtype(model, model.config.dtype if isinstance(dtype, str) else dtype)
        warnings = (*warnings, "Its packed weights were dequantised")
    return model, warnings


def _warnings(source: ModelSource, model: PreTrainedModel, info: Mapping[str, Any]) -> tuple[str, ...]:
    """What a user should know; raises UsageError if the weights are not those of the model."""
    return *check_weights(model, info, source.name), *tokens_beyond(read_config(source.folder, source.name))


@contextlib.contextmanager
def _readable(source: ModelSource, device: torch.device, packing: Packing | None = None) -> Iterator[None]:
    """What transformers raises while it loads a model says what is wrong with the checkpoint."""
    try:
        yield
    except UsageError:
        raise
    except BROKEN as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"Model '{source.name}' comes with its own code", "Pass --trust-remote-code if you trust its author"
            ) from error
        damage = find_damage(source.folder)
        if packing is not None and not damage:
            raise not_run(packing, device, source.name, first_line(error)) from error
        reason = damage or first_line(error)
        raise UsageError(
            f"Model '{source.name}' cannot be loaded as a causal LM: {reason}",
            "Its config, weights and architecture must be ones that AutoModelForCausalLM takes",
        ) from error


def _streams(
    source: ModelSource,
    dtype: torch.dtype | str,
    device: str,
    weights: Weights,
    memory: int | None,
    quantize: str | None,
) -> bool:
    """Whether weights are read from the disk while the model runs."""
    if quantize is None:
        return weights == "streamed" or (weights == "auto" and must_stream(source.folder, dtype, device, memory))
    if weights == "streamed":
        raise UsageError(
            f"--quantize {quantize} packs weights in memory, and they are to be streamed",
            "Leave one of --quantize and --weights streamed out",
        )
    return False


def _stream_weights(
    source: ModelSource, dtype: torch.dtype | str, device: torch.device, options: dict[str, Any]
) -> tuple[PreTrainedModel, tuple[str, ...], WeightStore]:
    """The model without weights in its blocks, what a user should know of how it was loaded, and where they are."""
    refuse_unstreamable(source.folder, source.name)
    dtype = (stored_dtype(source.folder) or torch.float32) if isinstance(dtype, str) else dtype
    with _readable(source, device):
        found = open_streamed(source.folder, source.location, dtype, device, source.name, options)
    return found.model, _warnings(source, found.model, found.info), found.store


def _load_tokenizer(source: ModelSource, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(source.location, **options)
    except BROKEN as error:
        raise UsageError(
            f"Model '{source.name}' has no tokenizer that can be loaded: {first_line(error)}",
            "Save the tokenizer into the same folder with tokenizer.save_pretrained",
        ) from error


def _run_once(model: PreTrainedModel, source: ModelSource, device: torch.device, packing: Packing | None) -> None:
    """See that the model runs, and looks at no later tokens."""
    try:
        _refuse_bidirectional(model, source)
    except UsageError:
        raise
    except BROKEN as error:  # kernels for packed weights are chosen, and fail, at the first forward
        if packing is None:
            raise
        raise not_run(packing, device, source.name, first_line(error)) from error


def _refuse_bidirectional(model: PreTrainedModel, source: ModelSource) -> None:
    """`AutoModelForCausalLM` loads BERT and its kin too, and only warns that they look ahead.

    Their configs do not tell them apart reliably, so the last of 8 tokens is changed: in a causal LM no logits
    before it move.
    """
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    tokens = torch.arange(8, device=model.device).repeat(2, 1) % vocabulary  # (2, 8)
    tokens[1, -1] = (tokens[1, -1] + 1) % vocabulary
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()  # (2, 7, V)
    tolerance = 1e-4 if model.dtype == torch.float32 else 5e-2  # rows of a batch may round differently
    if (logits[0] - logits[1]).abs().max() > tolerance * logits.abs().max():
        raise UsageError(
            f"Model '{source.name}' is not a causal LM: its {type(model).__name__} looks at later tokens",
            "Pass a decoder-only model",
        )
