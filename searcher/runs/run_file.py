"""`run.json`, read: all that must be there is, and is of its kind; or the file is named and what is wrong with it."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from searcher.contracts.plan import PrunePlan
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.journal import RUN_FILE, read_json
from searcher.runs.options import make_config

MEND = "The file was damaged: put back what was there, or start again under another --name"

Plan = Annotated[str, AfterValidator(lambda text: str(PrunePlan.parse(text)))]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Amount(_Part):
    evaluations: float
    layer_forwards: float
    heads: float
    total: float


class _Cost(_Part):
    charged: _Amount
    executed: _Amount
    seconds: float


class _Work(_Part):
    layer_forwards: float
    heads: float
    seconds: float


class _Round(_Part):
    share: float
    steps: int | None
    healed: dict[str, list[Plan]]
    dropped: dict[str, list[Plan]]
    charged: _Amount
    run: _Work


class _Outcome(_Part):
    chosen: dict[str, Plan]
    size: int
    cost: _Cost
    notes: dict[str, Any]
    stopped: str | None
    repeatable: bool
    front: list[Plan] = []
    shortlists: dict[str, list[Plan]] = {}
    rounds: list[_Round] = []
    missed: list[str] = []

    @model_validator(mode="after")
    def _has_its_size(self) -> "_Outcome":
        if str(self.size) not in self.chosen:
            raise ValueError(f"no plan of size {self.size} among the chosen ones")
        return self


class _Group(_Part):
    name: str
    rows: int
    objectives: list[str]


class _Layout(_Part):
    search: list[_Group]
    report: list[_Group]


class _Identity(_Part):
    model_fingerprint: str
    text_fingerprint: str
    objective_sources: list[Any]
    dtype: str
    device_type: str
    windows: int
    window_tokens: int
    report_windows: int


class _WindowTexts(_Part):
    search: list[int]
    report: list[int]


class _Texts(_Part):
    names: list[str]
    windows: _WindowTexts

    @model_validator(mode="after")
    def _has_names(self) -> "_Texts":
        if not {*self.windows.search, *self.windows.report} <= set(range(len(self.names))):
            raise ValueError("a window is of a text that has no name")
        return self


class _Hardware(_Part):
    name: str


class _RunFile(_Part):
    format: int
    config: dict[str, Any]
    identity: _Identity
    limits: dict[str, Any]
    model: str
    text: str
    num_blocks: int
    layout: _Layout
    versions: dict[str, str | None]
    hardware: _Hardware
    sizes: dict[str, dict[str, Any]] = {}
    documents: dict[str, list[int]] = {}
    texts: _Texts | None = None
    outcome: _Outcome | None = None

    @model_validator(mode="after")
    def _has_texts_of_all_windows(self) -> "_RunFile":
        counts = (self.identity.windows, self.identity.report_windows)
        if self.texts and (len(self.texts.windows.search), len(self.texts.windows.report)) != counts:
            raise ValueError("there are more or fewer windows in 'texts' than were measured")
        return self


def read_run_file(folder: Path) -> dict[str, Any]:
    """What `run.json` of a folder holds, of a run that is finished or not.

    Raises:
        UsageError: there is none, or something in it is missing or not what it must be.
    """
    path = folder / RUN_FILE
    content = read_json(path)
    check_content(path, content, _RunFile, MEND)
    read_config(path, content)
    return content


def check_content(path: Path, content: dict[str, Any], schema: type[BaseModel], hint: str) -> None:
    """Refuse what does not hold all that it must.

    Raises:
        UsageError: the first thing that is missing or does not fit, by its name in the file.
    """
    try:
        schema.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or path.name
        wrong = "is missing" if first["type"] == "missing" else f"does not fit: {first['msg']}"
        raise UsageError(f"{path} is damaged: '{place}' {wrong}", hint) from error


def read_config(path: Path, content: dict[str, Any]) -> RunConfig:
    """The configuration in a `run.json`. Raises UsageError if it is none."""
    try:
        return make_config(RunConfig, content["config"])
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", MEND) from error
