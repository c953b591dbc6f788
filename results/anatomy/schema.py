"""What the JSON files of an analysis must hold."""

from pydantic import BaseModel, ConfigDict

Number = float | str | None
"""A number; `nan`, `inf` and `-inf` are texts in JSON."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class Identity(_Part):
    """What was measured."""

    dtype: str


class Cost(_Part):
    """What a part has taken."""

    layer_forwards: float
    heads: float
    seconds: float


class Record(_Part):
    """`analysis.json`."""

    format: int
    model: str
    text: str
    num_blocks: int
    windows: int
    window_tokens: int
    documents: list[int]
    granularity: str
    identity: Identity
    config: dict[str, object]
    cost: dict[str, Cost]
    versions: dict[str, str | None]


class Correlation(_Part):
    """A rank correlation with its interval."""

    value: Number
    low: Number
    high: Number
    count: int


class Near(Correlation):
    """That of neighbours up to a distance."""

    distance: int


class Misfit(_Part):
    """A block that cannot stand in another's place."""

    place: int
    block: int
    reason: str


class Influence(_Part):
    """`influence.json`, and so on below."""

    correlations: dict[str, Correlation]


class Updates(_Part):  # noqa: D101
    tokens: int


class Heads(_Part):  # noqa: D101
    not_found: dict[str, str]


class Replacement(_Part):  # noqa: D101
    symmetry_near: Near
    misfits: list[Misfit]


class Shapley(_Part):  # noqa: D101
    index: str
    estimator: str
    plans: int
    exact: bool
    agreement: Correlation | None
    total: Number
    broken: int


FACTS: dict[str, type[BaseModel]] = {
    "influence": Influence,
    "updates": Updates,
    "heads": Heads,
    "contiguous": _Part,
    "replacement": Replacement,
    "interactions": _Part,
    "shapley": Shapley,
}
"""By part."""
