"""The configuration of a run: every option once, with its default, its check and its kind."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from searcher.contracts.plan import Budget, Granularity, PrunePlan
from searcher.errors import UsageError
from searcher.runs.generated import parse_generated
from searcher.runs.notation import parse_bound, parse_bytes, parse_seconds, plain_spec, split_label, without_password

Kind = Literal["measurement", "search", "limit", "execution"]
"""What a field of a finished run means for the same run folder: a *measurement* or *search* field must match, a
*limit* may grow, an *execution* field is free."""

Robust = Literal["mean", "worst"]
"""How the scores of a plan on several texts become one; see :mod:`searcher.search.robust`."""

Weights = Literal["auto", "resident", "streamed"]
"""Where the weights of a model are while it is measured; see :mod:`searcher.loading.streamed_model`."""

DEFAULT_OBJECTIVE = ("perplexity",)

HEALING_FIELDS = ("heal_top", "heal_rounds", "heal_windows", "heal_final", "heal_data", "heal_answers")
"""Fields that change nothing where nothing is healed."""


def _field(kind: Kind, default: Any, description: str, **checks: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"kind": kind}, **checks)


_measurement, _search = partial(_field, "measurement"), partial(_field, "search")
_limit, _execution = partial(_field, "limit"), partial(_field, "execution")


class MeasurementConfig(BaseModel):
    """What is measured, on what. Make one with :func:`make_config`."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)  # --help needs the fields alone

    model: str | None = _measurement(
        None, "Hub id, local folder or .gguf file. Default: SmolLM2-135M-Instruct, fetched once."
    )
    revision: str | None = _measurement(None, "Branch, tag or commit of a hub model.")
    trust_remote_code: bool = _measurement(False, "Run modelling code that comes with the model.")
    dtype: str = _measurement("auto", "float32, bfloat16 or float16. Default: what suits the device.")
    quantize: Literal["int8", "int4"] | None = _measurement(
        None,
        "Search the model with the weights of its blocks in 8 or 4 bits, int8 or int4 (needs torchao: pip install "
        '"pruneplan[quantize]"). Default: as they are.',
    )
    data: tuple[str, ...] | None = _measurement(
        None,
        "Text: a .txt, .jsonl or .parquet file, a folder of datasets' save_to_disk, or a datasets id "
        "(wikitext2 and c4 for short), with a field text, or messages of chats; or generated:N, N windows that the "
        "model writes itself; may be repeated. Default: the topics of Python's own help.",
        min_length=1,
    )
    windows: int | None = _measurement(
        None,
        "Search windows, shared evenly over the texts. Default: 8 on a CPU, 64 on a GPU; up to 64 and 256 for "
        "strategies that see most plans on a few of them.",
        ge=1,
    )
    window_tokens: int | None = _measurement(None, "Tokens of a window. Default: 128, on a GPU 512.", ge=2)
    report_windows: int | None = _measurement(
        None, "Windows of the report split, at least 32. Default: 32, on a GPU 128.", ge=32
    )
    data_seed: int = _measurement(0, "Which windows of the search split are taken. Default: 0.", ge=0)
    objective: tuple[str, ...] = _measurement(
        DEFAULT_OBJECTIVE,
        "What to measure; may be repeated. The first is searched for, but see --weight; the strategy optuna searches "
        "for all. Write LABEL=NAME to measure one twice with other options. Default: perplexity.",
        min_length=1,
    )
    objective_args: dict[str, dict[str, Any]] = _measurement(
        {}, "Option of an objective, as name=value, or objective:name=value if there are several."
    )
    heal: str | None = _measurement(
        None,
        "Heal plans before they are scored, such as bias, rescale, linear or lora:steps=20 (see searcher list "
        "healings): the first three in every score of a search, others re-rank its best plans. Default: no healing.",
    )
    heal_windows: int | None = _measurement(
        None,
        "Windows of the heal split that healing reads, a fifth of them held out to choose by. Default: up to 160, on a "
        "GPU 1280.",
        ge=2,
    )
    heal_data: tuple[str, ...] | None = _measurement(
        None,
        "Text to heal on, in place of the heal split of --data; written like it, may be repeated. What it shares with "
        "the search and report splits is left out.",
        min_length=1,
    )
    heal_answers: bool = _measurement(
        False, "Where the text to heal on holds chats, learn from the answers alone; for healings that train on text."
    )
    device: str = _execution(
        "auto",
        "cpu, cuda, cuda:1, xpu, mps and so on. Default: an accelerator if there is one; a model that does not fit one "
        "of several is spread over them.",
    )
    memory: str | None = _execution(
        None,
        "What the process may take, such as 8GiB; on a GPU, there, on several on each. Default: a quarter of what is "
        "free, on a GPU 90%.",
    )
    weights: Weights = _execution(
        "auto",
        "resident: all in memory. streamed: read from the disk block by block, for models larger than memory; the same "
        "numbers. Default: streamed where the model does not fit.",
    )

    workers: int | None = _execution(
        None, "Ray actors, one per GPU or group of cores; 0: this process alone. Default: one per GPU if several.", ge=0
    )
    ray_address: str | None = _execution(
        None, "A running Ray cluster to join: auto, or HOST:PORT. By default one worker for each GPU there, or core."
    )

    @field_validator("objective", "data", "heal_data", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_serializer("data", "heal_data")
    def _one_or_several(self, value: tuple[str, ...] | None) -> str | list[str] | None:
        """One text is written as text, as it was when there could be no more."""
        if value is None:
            return None
        return value[0] if len(value) == 1 else list(value)

    @field_validator("data", "heal_data")
    @classmethod
    def _check_generated(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for text in value or ():
            parse_generated(text)
        return value

    @field_validator("heal", mode="before")
    @classmethod
    def _check_heal(cls, value: Any) -> str | None:
        return None if value is None else plain_spec(str(value))

    @field_validator("memory", mode="before")
    @classmethod
    def _check_memory(cls, value: Any) -> str | None:
        return _checked(parse_bytes, value)

    @field_validator("objective")
    @classmethod
    def _labels_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        labels = [split_label(text)[0] for text in value]
        if len(set(labels)) < len(labels):
            raise UsageError(
                f"An objective is named twice: {', '.join(value)}",
                "Name each once, or write LABEL=NAME to measure one twice with other options",
            )
        return value

    @property
    def goals(self) -> tuple[str, ...]:
        """Labels of the objectives asked for, in order."""
        return tuple(split_label(text)[0] for text in self.objective)

    @property
    def objective_specs(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Name and options of each objective that is measured, by label; those asked for come first."""
        named = dict(split_label(text) for text in self.objective)
        return {label: (name, self.objective_args.get(label, {})) for label, name in named.items()}

    def check_healed(self, healed: bool) -> None:
        """Refuse options of healing where nothing is healed.

        Raises:
            UsageError: with the first of them that was given.
        """
        fields = type(self).model_fields
        for name in HEALING_FIELDS:
            if not healed and name in fields and getattr(self, name) != fields[name].default:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for healing, but nothing is healed", "Add --heal, or leave it out"
                )

    def of_kind(self, kind: Kind) -> dict[str, Any]:
        """The fields of one kind, as plain JSON values."""
        kinds = self.kinds()
        return {name: value for name, value in self.model_dump(mode="json").items() if kinds[name] == kind}

    @classmethod
    def kinds(cls) -> dict[str, Kind]:
        """The kind of each field."""
        return {name: field.json_schema_extra["kind"] for name, field in cls.model_fields.items()}  # type: ignore[index, misc]


class RunConfig(MeasurementConfig):
    """What to search, on what, by which measure, and how far. Make one with :func:`make_config`."""

    strategy: str = _search(
        "bayesian",
        "How to search: a name of `searcher list strategies`, or path/to/file.py:Class. Default: bayesian.",
    )
    budget: str = _search(..., "How much to remove: 8 units, 25% of them, or 1-8 for every size between.")
    granularity: Granularity = _search(Granularity.BLOCK, "What the units are. Default: block.")
    strategy_args: dict[str, Any] = _search({}, "Option of the strategy, as name=value.")
    keep: str = _search("", "Units that must stay, such as 0,1,29 or 3.attn.")
    max_attention: int | None = _search(
        None, "Attention sublayers that a plan of a free mix may remove at most. Default: no limit.", ge=0
    )
    max_ffn: int | None = _search(None, "The same for FFN sublayers.", ge=0)
    start: str | None = _search(
        None,
        "Plan to start from, such as 4,13-18,26, or the folder of a run whose best plan it is; for strategies that "
        "improve a plan.",
    )
    search_by: str | None = _search(
        None,
        "Search for this objective in place of the first, which is then only reported. Default: hybrid, where the "
        "strategy is bayesian and perplexity or loss is asked for; else the first objective.",
    )
    weight: dict[str, float] = _search(
        {},
        "Search for a weighted sum, such as perplexity=1 and kv-cache=0.5 (repeat the option): each objective relative "
        "to the dense model's value.",
    )
    robust: Robust = _search(
        "mean",
        "What a plan is scored by where there are several texts: the mean over all windows, or the worst text, by the "
        "largest rise over the dense model's loss. Default: mean.",
    )
    at_most: dict[str, str] = _search(
        {},
        "What the final plan must keep to, such as kv-cache=60% of the dense model's, latency=0.8 or parameters=100M; "
        "may be repeated, with any objective where lower is better.",
    )
    at_least: dict[str, str] = _search({}, "The same for an objective where higher is better, such as accuracy=0.6.")
    heal_final: str | None = _measurement(
        None,
        "Where --heal is part of every score: heal the best plans by this in its place, such as lora:steps=200, and "
        "rank them anew. Default: no other healing.",
    )
    heal_top: int = _search(
        8,
        "How many of the best plans of each size are healed and ranked anew, by healings that are fitted to a whole "
        "plan. Default: 8.",
        ge=1,
    )
    heal_rounds: int = _search(
        1,
        "Heal the plans of --heal-top in so many rounds of successive halving, each with twice the steps of the one "
        "before and the better half of its plans. Default: 1, all of them in full.",
        ge=1,
        le=7,
    )
    seed: int = _search(0, "Seed of the strategy. Default: 0.", ge=0)
    racing: float | None = _search(
        None,
        "Drop plans early that are clearly not the best, in each round with at most this chance of dropping the best "
        "one, such as 0.05. Default: measure all in full.",
        gt=0,
        lt=1,
    )
    screening: float | None = _search(
        None,
        "Rank plans first by a cheap loss over the likely tokens and measure only this share of them, such as 0.5; "
        "a guess without a guarantee. Default: measure all.",
        gt=0,
        lt=1,
    )
    max_evaluations: float | None = _limit(None, "Stop before more plans than this, or what costs as much.", gt=0)
    max_cost: float | None = _limit(None, "Stop before this cost, in layer-forward equivalents per 1,000 tokens.", gt=0)
    timeout: str | None = _limit(None, "Stop after 90s, 30m or 2h; what is found then depends on the machine's speed.")
    name: str | None = _execution(None, "Name of the run folder. Default: made from the configuration.")
    runs_dir: str = _execution("runs", "Where run folders are. Default: runs.")
    optuna: str | None = _execution(
        None,
        "Database to mirror the run into as an Optuna study while it goes on, such as sqlite:///study.db or "
        "postgresql://user:password@host/name; optuna-dashboard shows it.",
    )

    @field_validator("heal_final", mode="before")
    @classmethod
    def _check_heal_final(cls, value: Any) -> str | None:
        return None if value is None else plain_spec(str(value))

    @field_validator("budget", mode="before")
    @classmethod
    def _check_budget(cls, value: Any) -> str:
        return str(Budget(str(value)))

    @field_validator("keep", mode="before")
    @classmethod
    def _check_keep(cls, value: Any) -> str:
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        return str(PrunePlan.parse(text)) if text else ""

    @field_validator("timeout", mode="before")
    @classmethod
    def _check_timeout(cls, value: Any) -> str | None:
        return _checked(parse_seconds, value)

    @field_validator("optuna")
    @classmethod
    def _check_optuna(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w+]+://.*", value):
            raise UsageError(  # without the text, which may hold a password
                "--optuna is not the URL of a database",
                "Write it as sqlite:///study.db or postgresql://user:password@host/name",
            )
        return value

    @field_serializer("optuna")
    def _hide_password(self, value: str | None) -> str | None:
        """A password is not kept in the run folder, nor printed."""
        return None if value is None else without_password(value)

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if (value is not None and not re.fullmatch(r"[\w.-]+", value)) or value in (".", ".."):
            raise UsageError(
                f"Name '{value}' cannot be a folder name", "Use letters, digits, dots, dashes and underscores"
            )
        return value

    @field_validator("at_most", "at_least", mode="before")
    @classmethod
    def _check_bounds(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for label, bound in value.items():
                parse_bound(label, str(bound))
            return {label: str(bound) for label, bound in value.items()}
        return value

    @model_validator(mode="after")
    def _check_weights(self) -> "RunConfig":
        for label, weight in self.weight.items():
            if label not in self.goals:
                raise UsageError(f"--weight for '{label}', which is not an objective", f"Add --objective {label}")
            if not 0 < weight < math.inf:
                raise UsageError(f"--weight {label}={weight} is no weight", "Give a number above 0")
        return self

    @model_validator(mode="after")
    def _check_search_by(self) -> "RunConfig":
        if self.search_by is not None and self.weight:
            raise UsageError(
                f"--search-by {self.search_by} and --weight both say what is searched for", "Leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _check_robust(self) -> "RunConfig":
        if self.robust == "mean":
            return self
        if len(self.data or ()) < 2:
            raise UsageError(
                f"--robust {self.robust} is for several texts, but there is one",
                "Repeat --data, such as --data a.txt --data b.jsonl, or leave --robust out",
            )
        if self.racing is not None:
            raise UsageError(
                f"--racing drops plans by their mean over windows, but --robust {self.robust} scores them by one text",
                "Leave one of them out",
            )
        return self

    @model_validator(mode="after")
    def _check_healing(self) -> "RunConfig":
        self.check_healed(self.heal is not None)
        return self

    @property
    def objective_specs(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Those asked for, then those that are limited, then the one searched by."""
        others = [*self.at_most, *self.at_least, *filter(None, [self.search_by])]
        return super().objective_specs | {
            label: (label, self.objective_args.get(label, {})) for label in others if label not in self.goals
        }

    @property
    def healed_by(self) -> str | None:
        """What the chosen plan is healed by in the end, if anything."""
        return self.heal if self.heal_final is None else self.heal_final

    @property
    def searched(self) -> tuple[str, ...]:
        """Labels of the objectives that are searched for."""
        return self.goals if self.search_by is None else (self.search_by,)

    @model_validator(mode="after")
    def _check_mix(self) -> "RunConfig":
        if self.granularity is not Granularity.SUBLAYER and (self.max_attention, self.max_ffn) != (None, None):
            raise UsageError(
                f"--max-attention and --max-ffn limit a free mix, but the granularity is '{self.granularity}'",
                "Add --granularity sublayer, or leave them out",
            )
        return self

    @property
    def seconds(self) -> float | None:
        """The timeout in seconds."""
        return None if self.timeout is None else parse_seconds(self.timeout)


def _checked(parse: Callable[[str], object], value: Any) -> str | None:
    """The value as text, which can be parsed; UsageError if it cannot."""
    if value is None:
        return None
    parse(str(value))
    return str(value)
