"""Loading a causal LM with its tokenizer: the embedded default, a GGUF file, a local folder or a hub id."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from searcher.architecture.custom_model import find_notes, load_custom
from searcher.architecture.devices import choose_device, computes_on_cpu, has_bfloat16, may_spread
from searcher.errors import UsageError, first_line
from searcher.loading.damage import find_damage, tokens_beyond
from searcher.loading.dtypes import stored_dtype, weight_bytes
from searcher.loading.embedded import EMBEDDED_NAME, find_embedded
from searcher.loading.gguf import convert_gguf
from searcher.loading.pretrained import BROKEN, check_weights, quietly
from searcher.loading.special_checkpoints import ADAPTER, in_one_dtype, loading_options, read_config, refuse_adapter
from searcher.loading.spread import device_map, settle
from searcher.runs.fingerprint import fingerprint_folder

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
    """A causal LM, ready to be measured: in eval mode, without gradients, on one device or spread over several.

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
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    folder: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def num_blocks(self) -> int:
        """How many decoder blocks the config says there are."""
        return int(self.model.config.get_text_config(decoder=True).num_hidden_layers)


@dataclass(frozen=True)
class _Source:
    """Where transformers finds a model, and what is known of it before it is loaded."""

    location: str
    name: str
    fingerprint: str
    folder: Path
    revision: str | None = None


def load_model(
    spec: str | None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str = "auto",
    device: str = "auto",
) -> LoadedModel:
    """Load a causal LM and its tokenizer.

    The fingerprint of a hub model is its id and resolved commit; that of a GGUF file its sha256; that of a folder a
    sha256 over the config, any modelling code, and of every weight file the name, the size, the safetensors header
    and 16 evenly spaced pieces of 4 KiB of every tensor. Reading a folder of many gigabytes in full would take as
    long as loading it; a training step or a zeroed tensor changes every tensor it touches throughout.

    Args:
        spec: a hub id, a local folder or a `.gguf` file; None for the embedded default. A GGUF file is dequantised
            once and kept in the cache as float32 safetensors.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run modelling code that comes with the checkpoint.
        dtype: `float32`, `bfloat16`, `float16` (or `fp32`, `bf16`, `fp16`); `auto` is bfloat16 where the device
            computes in it, else float32 on CPU and float16 elsewhere; `stored` is that of the checkpoint.
        device: `cpu`, `cuda`, `cuda:1`, `xpu` and so on; `auto` is the accelerator if there is one, else the CPU. Where
            a name leaves open which of several is meant, a model that does not fit one of them is spread over all.

    Raises:
        UsageError: an argument is wrong, or what it names holds no complete causal LM with a tokenizer.
    """
    chosen_device = choose_device(device)
    chosen_dtype = None if dtype == STORED else choose_dtype(dtype, chosen_device)
    source = _find(spec, revision)
    options = {"revision": source.revision, "trust_remote_code": trust_remote_code}
    with quietly():
        model, warnings = _load_weights(
            source, chosen_dtype or _stored(source), _placement(source, chosen_dtype, device), options
        )
        tokenizer = _load_tokenizer(source, options)
    model.eval().requires_grad_(False)
    _refuse_bidirectional(model, source)
    limit = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit:  # a tokenizer read from a GGUF file knows of none
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    chosen_dtype = chosen_dtype or model.dtype
    return LoadedModel(
        model, tokenizer, source.name, source.fingerprint, chosen_device, chosen_dtype, source.folder, warnings
    )


def load_tokenizer(spec: str | None, *, revision: str | None, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a model alone, as :func:`load_model` finds both.

    Raises:
        UsageError: there is no such model, or it has no tokenizer.
    """
    source = _find(spec, revision)
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


def _stored(source: _Source) -> torch.dtype | str:
    with contextlib.suppress(*BROKEN):  # loading it will tell what is wrong
        return stored_dtype(source.folder) or "auto"
    return "auto"


def _find(spec: str | None, revision: str | None) -> _Source:
    if spec is None:
        return _converted(find_embedded(), EMBEDDED_NAME)
    path = Path(spec).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UsageError(f"Model '{spec}': there is no such file", "Check the path of the .gguf file")
        return _converted(path, path.name)
    if path.is_dir():
        return _find_folder(path)
    if path.is_absolute() or spec.startswith((".", "~")) or path.exists():
        raise UsageError(
            f"Model '{spec}' is not a folder", "Pass a hub id, a folder written by save_pretrained or a .gguf file"
        )
    return _find_on_hub(spec, revision)


def _converted(path: Path, name: str) -> _Source:
    folder, digest = convert_gguf(path)
    return _Source(str(folder), name, f"gguf:{digest}", folder)


def _find_folder(path: Path) -> _Source:
    refuse_adapter(path, str(path))
    if not (path / "config.json").is_file():
        raise UsageError(
            f"Folder '{path}' holds no causal LM: it has no config.json",
            "Pass a folder written by save_pretrained, with config, weights and tokenizer",
        )
    return _Source(str(path), path.resolve().name, fingerprint_folder(path), path.resolve())


def _find_on_hub(spec: str, revision: str | None) -> _Source:
    with quietly():
        try:
            config = cached_file(spec, "config.json", revision=revision)
        except (OSError, ValueError) as error:
            _refuse_adapter_on_hub(spec, revision)
            wanted = spec if revision is None else f"{spec}@{revision}"
            raise UsageError(
                f"Model '{wanted}' is neither a local folder nor can it be had from the hub: {first_line(error)}",
                "Check the name, the connection and, for gated models, `hf auth login`",
            ) from error
    commit = Path(config).parent.name  # the hub cache keeps each commit in a folder of that name
    _refuse_adapter_on_hub(spec, commit)
    return _Source(spec, spec, f"hub:{spec}@{commit}", Path(config).parent, commit)


def _refuse_adapter_on_hub(spec: str, revision: str | None) -> None:
    found = None
    with quietly(), contextlib.suppress(OSError, ValueError):  # where there is none, or the hub is out of reach
        found = cached_file(spec, ADAPTER, revision=revision, _raise_exceptions_for_missing_entries=False)
    if found is not None:
        refuse_adapter(Path(found).parent, spec)


def _placement(source: _Source, dtype: torch.dtype | None, device: str) -> dict[str, Any]:
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
    source: _Source, dtype: torch.dtype | str, placement: dict[str, Any], options: dict[str, Any]
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model, and what a user should know of how it was loaded."""
    special = loading_options(source.folder, source.name)
    notes = find_notes(source.folder)
    try:
        if notes:
            model, info = load_custom(source.folder, notes, dtype, **placement)
        else:
            more = {
                **special,
                **placement,
                **options,
                "ignore_mismatched_sizes": True,
            }  # which are then refused by name
            model, info = AutoModelForCausalLM.from_pretrained(
                source.location, dtype=dtype, output_loading_info=True, **more
            )
    except UsageError:
        raise
    except BROKEN as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"Model '{source.name}' comes with its own code", "Pass --trust-remote-code if you trust its author"
            ) from error
        reason = find_damage(source.folder) or first_line(error)
        raise UsageError(
            f"Model '{source.name}' cannot be loaded as a causal LM: {reason}",
            "Its config, weights and architecture must be ones that AutoModelForCausalLM takes",
        ) from error
    settle(model, source.name)
    warnings = [*check_weights(model, info, source.name), *tokens_beyond(read_config(source.folder, source.name))]
    if special:
        in_one_dtype(model, model.config.dtype if isinstance(dtype, str) else dtype)
        warnings.append("Its packed weights were dequantised")
    return model, tuple(warnings)


def _load_tokenizer(source: _Source, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(source.location, **options)
    except BROKEN as error:
        raise UsageError(
            f"Model '{source.name}' has no tokenizer that can be loaded: {first_line(error)}",
            "Save the tokenizer into the same folder with tokenizer.save_pretrained",
        ) from error


def _refuse_bidirectional(model: PreTrainedModel, source: _Source) -> None:
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
