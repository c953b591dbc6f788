"""Running one of our modules in a fresh process, which finds the libraries of this one and nothing of the user's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from searcher.errors import UsageError

_RUN = """
import json, runpy, sys
places, module = sys.argv[1:3]
sys.path += json.loads(places)
sys.argv[:] = sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def in_fresh_process(module: str, *arguments: str) -> Any:
    """The JSON value that a module prints on its last line, when it is run with these arguments.

    A `statistics.py` in the user's folder must not hide Python's, wherever the folder is on the path of this process:
    so Python is isolated (`-I`), and our own places come after those of the standard library and of installed packages.

    Raises:
        UsageError: it failed; with the last thing it said.
    """
    command = [sys.executable, "-I", "-c", _RUN, json.dumps(_places()), module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode} and no message"]
        raise UsageError(f"The checkpoint does not load again: {last[0]}", "This is an error of searcher: report it")
    return json.loads(done.stdout.splitlines()[-1])


def _places() -> list[str]:
    """Where this process finds modules, but for the folders of the user's: the current one and that of his script."""
    root = Path(__file__).resolve().parents[2]
    script = Path(sys.argv[0]).resolve().parent if sys.argv[0] else None
    theirs = {Path.cwd(), script} - {root}
    places = [os.path.abspath(place) for place in sys.path if place]
    return [str(root), *(place for place in places if Path(place).resolve() not in theirs)]
