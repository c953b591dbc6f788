import os
import subprocess
import sys
from pathlib import Path

import searcher


def test_a_module_of_the_users_that_hides_ours_is_named(tmp_path):
    (tmp_path / "results.py").write_text("mine = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "searcher", "list", "strategies"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"Python finds 'results' in {tmp_path / 'results.py'}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_results_without_code_hides_nothing(tmp_path):
    (tmp_path / "results").mkdir()
    root = str(Path(searcher.__file__).parent.parent)  # as after an install: our packages stand in a folder of the path
    done = subprocess.run(
        [sys.executable, "-m", "searcher", "list", "strategies"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "greedy" in done.stdout
