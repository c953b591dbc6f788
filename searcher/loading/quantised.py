"""Checkpoints with a `quantization_config`: what packs their weights, and whether that can be run here."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from searcher.errors import UsageError

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "fbgemm_fp8": ("fbgemm-gpu",),
    "fp8": ("kernels",),
    "gptq": ("gptqmodel", "optimum"),
    "torchao": ("torchao",),
}
"""Methods whose checkpoints are run as they are, and the packages that transformers needs for it."""
GPU_ONLY = ("fbgemm_fp8", "fp8")
FP8_CAPABILITY = (8, 9)
"""Of the first GPUs that multiply in FP8."""
ORIGINAL = "Pass the checkpoint that it was made from"


@dataclass(frozen=True)
class Packing:
    """What packs the weights of a checkpoint.

    Attributes:
        method: as `quant_method` names it.
        kind: which way of the method, such as `4 bits`; empty where the config does not say.
    """

    method: str
    kind: str

    def __str__(self) -> str:
        return f"{self.method} ({self.kind})" if self.kind else self.method

    @property
    def described(self) -> str:
        """For tables and identities: the method with the versions of what runs it."""
        versions = (f"{name} {metadata.version(name)}" for name in LIBRARIES[self.method])
        return f"{self} by {', '.join(versions)}"

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are needed and not installed."""
        return tuple(name for name in LIBRARIES[self.method] if not is_installed(name))


def is_installed(package: str) -> bool:
    """Whether a package can be imported, which is not done."""
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def read_packing(how: Any, by: str) -> Packing:
    """What a `quantization_config` says.

    Args:
        how: the value in the config.
        by: what packs weights where the config does not name it.
    """
    how = how if isinstance(how, dict) else {}
    bits = how.get("bits") or (4 if how.get("load_in_4bit") else 8 if how.get("load_in_8bit") else None)
    return Packing(
        str(how.get("quant_method") or by or "a method it does not name"),
        f"{bits} bits" if bits else _torchao_kind(how.get("quant_type")),
    )


def _torchao_kind(quant_type: Any) -> str:
    """The name of torchao's config, `Int8WeightOnlyConfig` or the like."""
    default = quant_type.get("default") if isinstance(quant_type, dict) else None
    return str(default.get("_type") or "") if isinstance(default, dict) else ""


def runs_here(packing: Packing, device: torch.device) -> bool:
    """Whether the device computes with weights so packed, as far as can be told before the library is asked."""
    if packing.method not in GPU_ONLY:
        return True
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def check_packing(packing: Packing, device: torch.device, name: str) -> None:
    """Refuse packed weights that cannot be run.

    Args:
        packing: of the checkpoint.
        device: where it is to run.
        name: of the model, for messages.

    Raises:
        UsageError: the method is not among those that are known, its library is not installed, or the device cannot.
    """
    if packing.method not in LIBRARIES:
        itself = f"{', '.join(sorted(LIBRARIES))} are searched as they are"
        raise UsageError(f"Model '{name}' is quantised by {packing}, which is not known here: {itself}", ORIGINAL)
    if not runs_here(packing, device):
        raise UsageError(
            f"Model '{name}' is quantised by {packing}, which needs a GPU that multiplies in FP8, not {device}",
            ORIGINAL,
        )
    if packing.missing:
        itself = ", or save what model.dequantize() of transformers gives, and its tokenizer"
        raise UsageError(
            f"Model '{name}' is quantised by {packing}, and {' and '.join(packing.missing)} is not installed, which "
            "runs its weights",
            f"pip install {' '.join(packing.missing)}. {ORIGINAL}{itself if packing.method == 'bitsandbytes' else ''}",
        )


def not_run(packing: Packing, device: torch.device, name: str, reason: str) -> UsageError:
    """What is said where the library that is installed fails to load the weights."""
    return UsageError(
        f"Model '{name}' is quantised by {packing}, and its library cannot load it on {device}: {reason}",
        f"Try pip install --upgrade {' '.join(LIBRARIES[packing.method])}, or another --device. {ORIGINAL}",
    )
