"""Fixtures shared by the end-to-end tests."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

# Threads that wait for one another burn ten times the processor time on matrices as small as ours. Read by numpy and
# torch when they are first imported, here and in the processes that tests start.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# What one test computes on a dense model is not there for another, nor in the user's own cache.
os.environ["SEARCHER_CACHE_LIMIT"] = "0"

import pytest
from tiny_checkpoint import command, save_tiny_checkpoint, write_text

from searcher.api.unused_options import NOT_TAKEN


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with `model/` and `text.jsonl`."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_checkpoint(folder / "model")
    write_text(folder / "text.jsonl")
    return folder


@pytest.fixture
def searcher_command(tiny, tmp_path, monkeypatch, capsys):
    """Calls the command line in this process, in an empty folder: `done = searcher_command("run", "--budget", "2")`."""
    from searcher.cli.app import main

    monkeypatch.chdir(tmp_path)

    def call(name, *arguments, defaults=True):
        given = command(tiny, NOT_TAKEN.get(name, ())) if defaults else []
        monkeypatch.setattr("sys.argv", ["searcher", name, *given, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return SimpleNamespace(code=stop.value.code, out=out, err=err)

    return call


@pytest.fixture
def children_heed_ctrl_c():
    """Where the tests run in the background, SIGINT may be ignored, and processes started by them inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
