"""Loading a checkpoint of any form."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from searcher.checkpoint.custom import find_notes, load_custom
from searcher.errors import UsageError, first_line
from searcher.pretrained import BROKEN, quietly, refuse_incomplete


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
    with quietly():
        try:
            if notes := find_notes(folder):
                model, info = load_custom(folder, notes, dtype)
            else:
                model, info = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=dtype, output_loading_info=True, trust_remote_code=trust
                )
        except UsageError:
            raise
        except BROKEN as error:
            raise UsageError(f"{folder} cannot be loaded: {first_line(error)}", "Export the plan again") from error
    refuse_incomplete(info, str(folder))
    return model.to(device).eval()
