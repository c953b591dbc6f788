"""Where a model is: a hub id, a local folder, a `.gguf` file or the embedded default, found before it is loaded."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import cached_file

from searcher.errors import UsageError, first_line
from searcher.loading.embedded import EMBEDDED_NAME, find_embedded
from searcher.loading.gguf import convert_gguf
from searcher.loading.pretrained import quietly
from searcher.loading.special_checkpoints import ADAPTER, refuse_adapter
from searcher.runs.fingerprint import fingerprint_folder


@dataclass(frozen=True)
class ModelSource:
    """Where transformers finds a model, and what is known of it before it is loaded."""

    location: str
    name: str
    fingerprint: str
    folder: Path
    revision: str | None = None


def find_source(spec: str | None, revision: str | None) -> ModelSource:
    """Where a model is, with its config at least.

    Args:
        spec: see :func:`searcher.loading.model.load_model`, as `revision`.
        revision: branch, tag or commit of a hub id.

    Raises:
        UsageError: there is no such model.
    """
    if spec is None:
        return _converted(find_embedded(), EMBEDDED_NAME)
    path = Path(spec).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UsageError(f"Model '{spec}': there is no such file", "Check the path of the .gguf file")
        return _converted(path, path.name)
    if path.is_dir():
        return _find_folder(path)
    if path.is_absolute() or spec.startswith((".", "~")) or path.exists():
        raise UsageError(
            f"Model '{spec}' is not a folder", "Pass a hub id, a folder written by save_pretrained or a .gguf file"
        )
    return _find_on_hub(spec, revision)


def _converted(path: Path, name: str) -> ModelSource:
    folder, digest = convert_gguf(path)
    return ModelSource(str(folder), name, f"gguf:{digest}", folder)


def _find_folder(path: Path) -> ModelSource:
    refuse_adapter(path, str(path))
    if not (path / "config.json").is_file():
        raise UsageError(
            f"Folder '{path}' holds no causal LM: it has no config.json",
            "Pass a folder written by save_pretrained, with config, weights and tokenizer",
        )
    return ModelSource(str(path), path.resolve().name, fingerprint_folder(path), path.resolve())


def _find_on_hub(spec: str, revision: str | None) -> ModelSource:
    with quietly():
        try:
            config = cached_file(spec, "config.json", revision=revision)
        except (OSError, ValueError) as error:
            _refuse_adapter_on_hub(spec, revision)
            wanted = spec if revision is None else f"{spec}@{revision}"
            raise UsageError(
                f"Model '{wanted}' is neither a local folder nor can it be had from the hub: {first_line(error)}",
                "Check the name, the connection and, for gated models, `hf auth login`",
            ) from error
    commit = Path(config).parent.name  # the hub cache keeps each commit in a folder of that name
    _refuse_adapter_on_hub(spec, commit)
    return ModelSource(spec, spec, f"hub:{spec}@{commit}", Path(config).parent, commit)


def _refuse_adapter_on_hub(spec: str, revision: str | None) -> None:
    found = None
    with quietly(), contextlib.suppress(OSError, ValueError):  # where there is none, or the hub is out of reach
        found = cached_file(spec, ADAPTER, revision=revision, _raise_exceptions_for_missing_entries=False)
    if found is not None:
        refuse_adapter(Path(found).parent, spec)
