"""A model with sublayers gone or modules put in, as a class of its own: it loads and saves itself as what it is."""

import functools
import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from searcher.architecture.blocks import find_architecture
from searcher.architecture.replacement_modules import Inserted, Nothing, build
from searcher.contracts.form import Form
from searcher.errors import UsageError, first_line

NOTES = "searcher.json"
"""The file of a checkpoint that says what was removed; in the form `custom` it cannot be loaded without it."""
MODEL_TYPE = "searcher_custom"
"""What the config of a custom checkpoint calls the model, so that nothing else takes it for an ordinary one."""


class _Own:
    """Copied and pickled by the stock class that it is made of, because a class made at run time has no name."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _blank, type(self).__bases__, self.__dict__


class CustomConfig(_Own):
    """A stock config that is written with the notes, under the model type of custom checkpoints.

    Attributes:
        searcher_notes: content of the checkpoint's `searcher.json`.
    """

    searcher_notes: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Without the notes, which have a file of their own."""
        content: dict[str, Any] = super().to_dict()  # type: ignore[misc]  # of the stock config
        content.pop("searcher_notes", None)
        return content

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Called for every way in which a model is saved or pushed, after its weights' names are settled."""
        if has_own_code(self):
            raise UsageError("A model that comes with its own code has no form custom", "Prune whole blocks of it")
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        write_notes(Path(save_directory), self.searcher_notes)


class CustomModel(_Own):
    """A stock model that lacks what the notes of its config say."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]  # of the stock model
        put_in(find_architecture(cast("nn.Module", self)).blocks, config.searcher_notes)


def has_own_code(one: Any) -> bool:
    """Whether a model or config runs code that came with its checkpoint, which transformers keeps in such modules."""
    return type(one).__module__.startswith("transformers_mod")


@functools.cache
def class_of(kind: type, stock: type) -> Any:
    """A class that is both: of this kind, else as the stock model or config."""
    return type(stock.__name__, (kind, stock), {"__module__": stock.__module__})


def _blank(kind: type, stock: type) -> Any:
    made = class_of(kind, stock)
    return made.__new__(made)


def become_custom(model: Any, notes: dict[str, Any]) -> Any:
    """Let a stock model in which parts are gone or put in be one that saves itself with these notes."""
    if not isinstance(model, CustomModel):
        stock: type = type(model)
        config: type = type(model.config)
        model.__class__, model.config.__class__ = class_of(CustomModel, stock), class_of(CustomConfig, config)
    model.config.searcher_notes = notes
    return model


def find_notes(folder: Path) -> dict[str, Any] | None:
    """The notes of a custom checkpoint; None if the folder is another one, or none.

    Raises:
        UsageError: it is a custom one whose notes are missing or damaged.
    """
    notes = read_notes(folder)
    if notes.get("form") == Form.CUSTOM:
        return notes
    config = _read(folder / "config.json")
    if isinstance(config, dict) and config.get("model_type") == MODEL_TYPE:
        raise UsageError(
            f"{folder} is a custom checkpoint without its {NOTES}, which says what its blocks lack",
            f"Copy {NOTES} beside its config.json, or export the plan again",
        )
    return None


def read_notes(folder: Path) -> dict[str, Any]:
    """What `searcher export` noted in a checkpoint of any form; empty where it wrote none.

    Raises:
        UsageError: the notes are damaged.
    """
    path = folder / NOTES
    if not path.is_file():
        return {}
    notes = _read(path)
    if not isinstance(notes, dict):
        raise UsageError(f"{path} is damaged", "Export the plan again")
    return notes


def _read(path: Path) -> Any:
    """The JSON value in a file; None if it holds none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write_notes(folder: Path, notes: dict[str, Any]) -> None:
    """Write `searcher.json`, and for the form `custom` let the config name a type that nothing else knows."""
    if notes["form"] == Form.CUSTOM:
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {"model_type": MODEL_TYPE, "architectures": [MODEL_TYPE]}
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / NOTES).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")


def load_custom(
    folder: Path, notes: dict[str, Any], dtype: torch.dtype | str, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """The model and what transformers says of its loading.

    Args:
        folder: of a custom checkpoint.
        notes: see :func:`find_notes`.
        dtype: of the weights.
        options: more for `from_pretrained`.

    Raises:
        UsageError: the notes do not fit the checkpoint.
    """
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        content["model_type"] = notes["model_type"]
        stock = CONFIG_MAPPING[notes["model_type"]]
        config = class_of(CustomConfig, stock).from_dict(content)
        config.searcher_notes = notes
        kind = class_of(CustomModel, MODEL_FOR_CAUSAL_LM_MAPPING[stock])
        return kind.from_pretrained(folder, config=config, dtype=dtype, output_loading_info=True, **options)  # type: ignore[no-any-return]
    except (LookupError, AttributeError, TypeError) as error:
        raise UsageError(
            f"The {NOTES} of {folder} does not fit its weights ({first_line(error)})", "Export the plan again"
        ) from error


def put_in(blocks: nn.ModuleList, notes: dict[str, Any]) -> None:
    """Give a stock model's blocks, as many as there should be, the parts that a custom checkpoint notes."""
    for place, found in notes["inserted"].items():
        module, returns = build(found["module"]), _template(found["returns"])
        blocks[int(place)] = Inserted.like_block(blocks[int(place)], module, returns, int(place))
    for place, names in notes["silent"].items():
        for name, length in names.items():
            index = getattr(getattr(blocks[int(place)], name), "layer_idx", None)
            setattr(blocks[int(place)], name, Nothing(_template(length), index))


def _template(length: int | None) -> Any:
    return None if length is None else (None,) * length
