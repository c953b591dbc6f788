"""The model card: what was removed, what it cost in quality, how to load it, and how to make it again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from searcher.contracts.form import Form

TEMPLATE = Path(__file__).with_name("card.md.jinja")


@dataclass(frozen=True)
class Value:
    """What an objective gave for the model of a card, for the hub.

    Attributes:
        objective: its label.
        metric: what it is called.
        value: on the report split.
        dataset: hub id of the text, or what it is called.
    """

    objective: str
    metric: str
    value: float
    dataset: str


@dataclass(frozen=True)
class Numbers:
    """What was measured of a plan on the report split, as text.

    Attributes:
        columns: what the models are called: dense, pruned, healed.
        rows: of each objective: its name, then a value with its interval for each column.
        text: on which text.
        values: of the model of the card, those that say how good it is.
    """

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: str = ""
    values: Sequence[Value] = ()


@dataclass(frozen=True)
class Terms:
    """What the hub is told of where a model comes from.

    Attributes:
        base_model: hub id of the model that was pruned, None if it is not known.
        license: the hub's short name for it, `other` with the next two.
        license_name: what it is called.
        license_link: where it is.
    """

    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None


@dataclass(frozen=True)
class Card:
    """What a model card says besides what follows from the checkpoint.

    Attributes:
        original: name of the model that was pruned.
        command: how to make it again; where to is added when it is written.
        healing: how it was healed, empty if it was not.
        numbers: what was measured.
        terms: where the original comes from.
        search: how the plan was found.
        datasets: hub ids of the text that plans were measured on or healed with.
    """

    original: str
    command: str
    healing: str = ""
    numbers: Numbers = field(default_factory=Numbers)
    terms: Terms = field(default_factory=Terms)
    search: str = ""
    datasets: Sequence[str] = ()


def write_card(folder: Path, name: str, card: Card, facts: dict[str, Any]) -> None:
    """Write README.md.

    Args:
        folder: of the checkpoint.
        name: what it will be called.
        card: what to say.
        facts: plan, form, sizes, what was verified and whether there is own code, for the template.
    """
    values = [value for value in card.numbers.values if math.isfinite(value.value)]
    data = ModelCardData(
        library_name="searcher" if facts["form"] == Form.CUSTOM else "transformers",
        pipeline_tag="text-generation",
        tags=["pruned", "depth-pruning", "searcher"],
        datasets=list(card.datasets) or None,
        metrics=list(dict.fromkeys(value.metric for value in values)) or None,
        model_name=name if values else None,
        eval_results=[_result(value) for value in values] or None,
        **vars(card.terms),
    )
    made = ModelCard.from_template(data, template_path=str(TEMPLATE), name=name, card=card, **facts)
    made.save(folder / "README.md")


def _result(value: Value) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=value.dataset,
        dataset_name=value.dataset,
        metric_type=value.metric,
        metric_name=value.objective,
        metric_value=value.value,
    )


def terms_of(name: str, known: Terms, source: Path | None) -> Terms:
    """Where a model comes from.

    Args:
        name: of the model; a hub id, if it has a slash.
        known: what is known without looking.
        source: the folder it was loaded from, whose card may say more.
    """
    try:
        said = ModelCard.load(source / "README.md", ignore_metadata_errors=True).data if source else None
    except (OSError, ValueError, YAMLError):  # there is none, or one that nobody can read
        said = None
    if said is None:
        return replace(known, base_model=name) if "/" in name else known
    found = {key: said.get(key) for key in ("base_model", "license", "license_name", "license_link")}
    terms = Terms(**{key: value for key, value in found.items() if isinstance(value, str) and value})
    return replace(terms, base_model=name) if "/" in name else terms


def describe_check(found: Mapping[str, Any] | None) -> str:
    """What :func:`searcher.checkpoint.check.check_checkpoint` has found, in a sentence or two.

    Of a copy, what :func:`searcher.checkpoint.copy_check.check_copy` has found too.
    """
    if found is None:
        return "It was not loaded again and compared after it was written."
    if "tensors" not in found:
        return _describe_run(found)
    copied = f"It was copied: its {found['tensors']:,} tensors are those of the original, bit for bit"
    if found["built"]:
        copied += ", and names and shapes are those that transformers makes of its config"
    if "replayed" in found:
        same = "its hidden states and losses are those of the original without these blocks, bit for bit"
        return f"{copied}. Run block by block on {found['replayed']} random tokens, {same}."
    return f"{copied}. {_describe_run(found) if 'logit_difference' in found else 'It was not run.'}"


def _describe_run(found: Mapping[str, Any]) -> str:
    loaded = (
        "After it was written, a fresh process loaded it in float32: its logits differ from those of the pruned model "
        f"by {found['logit_difference']:.1e} of the largest"
    )
    if "dense_cache_difference" not in found:
        return f"{loaded}, and it generates the same {found['generated']} tokens with a key-value cache and without."
    own = found["dense_cache_difference"]
    if own is None:
        return f"{loaded}. It was not run with a key-value cache: the original cannot be either."
    return (
        f"{loaded}. With a key-value cache they differ by {found['cache_difference']:.1e} from those without, because "
        f"the original's do, by {own:.1e}."
    )
