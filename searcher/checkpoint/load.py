"""Loading a checkpoint of any form."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from searcher.architecture import find_architecture
from searcher.checkpoint.forms import NOTES, put_in
from searcher.errors import UsageError, first_line
from searcher.form import Form
from searcher.pretrained import BROKEN, quietly, refuse_incomplete

MODEL_TYPE = "searcher_custom"
"""What the config of a custom checkpoint calls the model, so that nothing else takes it for an ordinary one."""


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
            notes = _read(folder / NOTES) if (folder / NOTES).is_file() else {}
            if notes.get("form") == Form.CUSTOM:
                model, info = _load_custom(folder, notes, dtype)
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


def _load_custom(folder: Path, notes: dict[str, Any], dtype: torch.dtype | str) -> tuple[Any, dict[str, Any]]:
    """transformers loads it by a class of the stock model's kind that lacks what the notes say."""
    content = _read(folder / "config.json")
    content["model_type"] = notes["model_type"]
    config = CONFIG_MAPPING[notes["model_type"]].from_dict(content)
    stock: type[nn.Module] = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]

    def make(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        stock.__init__(self, config, *args, **kwargs)
        put_in(find_architecture(self).blocks, notes)

    custom: Any = type(stock.__name__, (stock,), {"__init__": make, "__module__": stock.__module__})
    model, info = custom.from_pretrained(folder, config=config, dtype=dtype, output_loading_info=True)
    return model, info


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
