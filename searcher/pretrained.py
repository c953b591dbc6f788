"""What all loading with transformers shares: quiet while it lasts, what it raises, no checkpoint with holes."""

import contextlib
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import transformers
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but re-exported without saying so
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from safetensors import SafetensorError

from searcher.errors import UsageError

# what transformers and its file readers raise for a checkpoint that is not what it should be
BROKEN = (OSError, ValueError, RuntimeError, LookupError, TypeError, ImportError, SafetensorError, struct.error)


def refuse_incomplete(info: dict[str, Any], name: str) -> None:
    """Weights missing from a checkpoint are filled with random numbers and a warning; tied ones are not missing.

    Raises:
        UsageError: naming the first missing weight.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UsageError(
            f"Model '{name}' holds no complete causal LM: '{missing[0]}'{others} would be random",
            "Pass a checkpoint that was saved with all of its weights, for a decoder-only model",
        )


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No warnings and no bars of transformers while loading; bars of downloads stay: they tell why it takes long."""
    log = transformers.utils.logging
    verbosity, bars, downloads = log.get_verbosity(), log.is_progress_bar_enabled(), not are_progress_bars_disabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
            if not downloads:
                disable_progress_bars()
