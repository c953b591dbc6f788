"""The process that checks a checkpoint finds nothing of the user's."""

import sys

import pytest

from searcher.checkpoint.fresh import in_fresh_process
from searcher.errors import UsageError

HIDING = ("statistics", "random", "torch", "json", "safetensors", "searcher", "sitecustomize")


@pytest.mark.parametrize("on_path", [False, True])
def test_modules_of_the_users_hide_nothing(on_path, tmp_path, monkeypatch):
    """Also where this process has their folder on its path: run by `python -m`, by PYTHONPATH, or as a script."""
    for name in HIDING:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('hidden by {name}')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if on_path:
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UsageError, match="not enough values to unpack"):  # it is asked for nothing, and got so far
        in_fresh_process("searcher.checkpoint.verify")
