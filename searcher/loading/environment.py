"""The machine and libraries that a number depends on: versions, and what of a processor changes bits."""

import os
import re
from typing import TYPE_CHECKING, Any

import torch

from searcher.architecture.devices import computes_on_cpu, name_of, versions_of
from searcher.runs.versions import versions

if TYPE_CHECKING:
    from searcher.loading.model import LoadedModel

PACKAGES = ("searcher", "torch", "transformers", "tokenizers", "numpy", "scipy")
"""Those that take part in every measurement; another version of one may round differently, or read text differently."""
VECTORS = re.compile(r"(sse|avx|amx|fma|f16c|neon|asimd|sve|sme|bf16|i8mm|fp16|dot).*")
"""Features of a processor by which torch, oneDNN and MKL choose how they multiply and add."""
SETTINGS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
)
"""Environment variables that make these libraries choose otherwise."""


def environment(device: torch.device) -> dict[str, Any]:
    """All that decides the bits of a number beside its model, tokens and dtype, by name; plain JSON values.

    Versions of libraries, and on a CPU its maker, the level that torch computes on, the vector instructions it has and
    what limits them, on an accelerator its name and the version of what torch was built for (CUDA, HIP, XPU). The model
    name of a CPU is left out: equal instructions give equal bits. So are the numbers of cores and threads, on which no
    number depends.
    """
    known = versions()
    return (
        {name: known[name] for name in PACKAGES}
        | (_cpu() if computes_on_cpu(device) else {"processor": name_of(device)} | versions_of(device))
        | {name: os.environ[name] for name in SETTINGS if name in os.environ}
        | {"float32 products": torch.get_float32_matmul_precision()}
    )


def _cpu() -> dict[str, Any]:
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    vectors = sorted(name for name, there in features.items() if there is True and VECTORS.fullmatch(name))
    maker = str(features.get("cpu_name", "")).split()[:1]  # MKL takes other ways on processors of other makers
    return {
        "processor": " ".join([*maker, str(features.get("architecture", ""))]).strip(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": " ".join(vectors),
    }


def dense_identity(model: "LoadedModel") -> dict[str, Any]:
    """What a number depends on that was computed on the dense model from given tokens; plain JSON values.

    With the tokens (and what was computed) it is a key for keeping such numbers;
    :func:`searcher.runs.fingerprint.digest_of` makes one text of it. All that a run's measurements depend on is
    `searcher.runs.identity.measurement_identity`.
    """
    return {
        "model_fingerprint": model.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device_type": model.device.type,
        "environment": environment(model.device),
    }
