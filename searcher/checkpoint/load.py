"""Loading a checkpoint of any form."""

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from searcher.architecture.custom_model import find_notes, load_custom
from searcher.errors import UsageError, first_line
from searcher.loading.damage import find_damage
from searcher.loading.pretrained import BROKEN, check_weights, quietly
from searcher.loading.special_checkpoints import in_one_dtype, loading_options, refuse_adapter


def load_checkpoint(folder: Path, dtype: torch.dtype | str = "auto", device: str = "cpu", trust: bool = False) -> Any:
    """The model in a folder, in eval mode.

    Args:
        folder: written by `searcher export`, in any form, or by `save_pretrained`.
        dtype: of the weights; by default that of the checkpoint.
        device: where to.
        trust: whether to run modelling code that comes with it.

    Raises:
        UsageError: the folder holds no checkpoint, or a damaged one.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} holds no checkpoint: it has no config.json", "Give a folder of searcher export")
    refuse_adapter(folder, str(folder))
    special = loading_options(folder, str(folder), torch.device(device))
    with quietly():
        try:
            if notes := find_notes(folder):
                model, info = load_custom(folder, notes, dtype)
            else:
                model, info = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=dtype, output_loading_info=True, trust_remote_code=trust, **special
                )
        except UsageError:
            raise
        except BROKEN as error:
            reason = find_damage(folder) or first_line(error)
            raise UsageError(f"{folder} cannot be loaded: {reason}", "Export the plan again") from error
    for warning in check_weights(model, info, str(folder)):
        warnings.warn(warning, stacklevel=3)
    if special:
        in_one_dtype(model, dtype if isinstance(dtype, torch.dtype) else model.config.dtype)
    return model.to(device).eval()
