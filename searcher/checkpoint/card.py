"""The model card: what was removed, what it cost in quality, how to load it, and how to make it again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

TEMPLATE = Path(__file__).with_name("card.md.jinja")


@dataclass(frozen=True)
class Numbers:
    """What was measured of a plan on the report split, as text.

    Attributes:
        columns: what the models are called: dense, pruned, healed.
        rows: of each objective: its name, then a value with its interval for each column.
        text: on which text.
    """

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: str = ""


@dataclass(frozen=True)
class Card:
    """What a model card says besides what follows from the checkpoint.

    Attributes:
        original: name of the model that was pruned.
        command: how to make it again; where to is added when it is written.
        healing: how it was healed, empty if it was not.
        numbers: what was measured.
        license: of the original, if it is known.
        search: how the plan was found.
    """

    original: str
    command: str
    healing: str = ""
    numbers: Numbers = field(default_factory=Numbers)
    license: str | None = None
    search: str = ""


def write_card(folder: Path, name: str, card: Card, facts: dict[str, Any]) -> None:
    """Write README.md.

    Args:
        folder: of the checkpoint.
        name: what it will be called.
        card: what to say.
        facts: plan, form, sizes, what was verified and whether there is own code, for the template.
    """
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=card.original if "/" in card.original else None,
        license=card.license,
        tags=["pruned", "depth-pruning", "searcher"],
    )
    made = ModelCard.from_template(data, template_path=str(TEMPLATE), name=name, card=card, **facts)
    made.save(folder / "README.md")


def license_of(source: Path) -> str | None:
    """The license that the card of a model in this folder names, if there is one."""
    path = source / "README.md"
    if not path.is_file():
        return None
    found = ModelCard.load(path, ignore_metadata_errors=True).data.get("license")
    return str(found) if found else None
