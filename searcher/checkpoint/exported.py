"""A checkpoint that was written, for whoever shows what it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searcher.contracts.form import Form
from searcher.contracts.plan import PrunePlan


@dataclass(frozen=True)
class Exported:
    """A checkpoint that was written.

    Attributes:
        folder: where.
        form: how.
        plan: what was removed.
        parameters: of the dense model, and left.
        cache: key-value cache bytes a token of the dense model, and left, in the dtype of the weights; None if unknown.
        bytes: of all files.
        verified: what a fresh process found, None if it was not asked.
        dtype: of the weights.
        precision: why.
    """

    folder: Path
    form: Form
    plan: PrunePlan
    parameters: tuple[int, int]
    cache: tuple[float, float] | None
    bytes: int
    verified: dict[str, Any] | None
    dtype: str
    precision: str

    def to_json(self) -> dict[str, Any]:
        """The JSON document of `searcher export`."""
        return {
            "folder": str(self.folder),
            "form": str(self.form),
            "plan": str(self.plan),
            "parameters": {"dense": self.parameters[0], "left": self.parameters[1]},
            "kv_cache": None if self.cache is None else {"dense": self.cache[0], "left": self.cache[1]},
            "bytes": self.bytes,
            "dtype": self.dtype,
            "verified": self.verified,
        }
