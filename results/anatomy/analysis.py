"""An analysis, read from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from results.anatomy.schema import FACTS, Record
from results.labels import units
from results.precision import precision
from searcher.anatomy.parts import PARTS
from searcher.errors import UsageError
from searcher.runs.arrays import read_arrays
from searcher.runs.clusters import count_clusters
from searcher.runs.journal import read_json
from searcher.runs.run_file import check_content

ANALYSIS_FILE = "analysis.json"
_SHAPES = {
    "influence": {"units": "u", "dense": "w", "removed": "uw", "leave_one_out": "u"},
    "updates": {"units": "u", "mean": "u", "mean_absolute": "u", "sigma": "u"},
    "heads": {"cosines": "bhh"},
    "contiguous": {"cosines": "bb"},
    "replacement": {"losses": "bbw", "as_copy": "b", "as_place": "b"},
    "interactions": {"units": "u", "per_window": "uuw", "matrix": "uu", "half_widths": "uu"},
    "shapley": {"units": "u", "single": "u", "pairs": "uu"},
}
"""The arrays that each part must have, a letter for each dimension: blocks, heads, units, windows."""
_MEND = "Run the same searcher analyze command with --part {}, which measures it again"


@dataclass(frozen=True, eq=False)
class Part:
    """What one part has found.

    Attributes:
        arrays: by name.
        facts: what is said about them.
        cost: layer_forwards and heads, over one window each, and seconds; empty where it is not known.
    """

    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Any]
    cost: dict[str, float]

    @property
    def units(self) -> tuple[str, ...]:
        """The units in order, as they are written in plans."""
        return tuple(map(str, self.arrays["units"]))


@dataclass(frozen=True, eq=False)
class Analysis:
    """A folder that `searcher analyze` has written.

    Attributes:
        folder: where it is kept.
        record: `analysis.json`.
        parts: those that are finished, by name, in the order of the measurements.
    """

    folder: Path
    record: dict[str, Any]
    parts: dict[str, Part]

    @property
    def num_blocks(self) -> int:
        """Of the model."""
        return int(self.record["num_blocks"])

    def units(self, number: int) -> str:
        """So many of the units that are compared, in words: `block`, `blocks`."""
        return units(self.record["granularity"], number)

    @property
    def documents(self) -> list[int]:
        """The document of each window."""
        return list(self.record["documents"])

    @property
    def spread(self) -> str:
        """What intervals are taken over, in words."""
        windows, documents = self.record["windows"], count_clusters(self.documents)
        if documents == 1:
            return "left out, for all windows are of one document"
        if documents == windows:
            return f"over {windows} windows, each of a document of its own"
        return f"over {windows} windows, the spread being that between the {documents} documents they come from"

    @property
    def setting(self) -> str:
        """Which model was measured on which text, and how much of it."""
        windows, tokens = self.record["windows"], self.record["window_tokens"]
        model = f"{self.record['model']} in {precision(self.record['identity'])}"
        return f"{model} on {self.record['text']}, {windows} search windows of {tokens} tokens"


def read_analysis(folder: str | Path) -> Analysis:
    """Read what an analysis has finished; a part that is not finished is left out.

    Raises:
        UsageError: the folder holds no analysis, none of its parts is finished, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / ANALYSIS_FILE).is_file():
        raise UsageError(f"{folder} is not an analysis: it has no {ANALYSIS_FILE}", "Make one with: searcher analyze")
    record = read_json(folder / ANALYSIS_FILE)
    check_content(folder / ANALYSIS_FILE, record, Record, "Analyze under another --name")
    parts = {part: _read_part(folder, record, part) for part in PARTS if (folder / f"{part}.json").exists()}
    if not parts:
        raise UsageError(
            f"{folder} has no finished part yet", "Run the same command again; it goes on where it stopped"
        )
    return Analysis(folder, record, parts)


def _read_part(folder: Path, record: Mapping[str, Any], part: str) -> Part:
    """A part's facts are written last, so that where they are its arrays must be too."""
    mend = _MEND.format(part)
    try:
        facts = read_json(folder / f"{part}.json")
    except UsageError as error:
        raise UsageError(error.message, mend) from error
    check_content(folder / f"{part}.json", facts, FACTS[part], mend)
    path = folder / f"{part}.npz"
    arrays = read_arrays(path, mend)
    _check_arrays(path, part, arrays, {"b": record["num_blocks"]})
    return Part(arrays, facts, record["cost"].get(part, {}))


def _check_arrays(path: Path, part: str, arrays: Mapping[str, NDArray[Any]], sizes: dict[str, int]) -> None:
    for name, letters in _SHAPES[part].items():
        if name not in arrays:
            raise UsageError(f"{path} has no array '{name}'", _MEND.format(part))
        shape = arrays[name].shape
        fits = len(shape) == len(letters) and all(
            sizes.setdefault(letter, size) == size for letter, size in zip(letters, shape, strict=True)
        )
        if not fits or (name != "units" and arrays[name].dtype.kind != "f"):
            raise UsageError(
                f"{path}: array '{name}' is {arrays[name].dtype} {shape}, which does not fit", _MEND.format(part)
            )
