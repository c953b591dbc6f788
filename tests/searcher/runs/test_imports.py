"""What a source file imports and reads, found without running it."""

import pytest

from searcher.runs.imports import follow_imports

SOURCE = """
import json, numpy, yaml, not_there
from pathlib import Path
raise SystemExit("never run")

def late():
    import found_late
    from found_package import name, submodule
    importlib.import_module("found_by_name")
    json.loads((Path(__file__).parent / "read.json").read_text())
    open("also.txt")
    np.load("array.npy", mode="r")

def written(table="named.json"):
    open("run.log", "a").write("line.txt")
    open("both.bin", mode="r+b")
    Path("out.json").write_text("x")
    print("spoken.txt")
"""
FILES = (
    "found_late.py", "found_package/__init__.py", "found_package/submodule.py", "found_package/other.py",
    "found_by_name.py", "read.json", "also.txt", "array.npy", "run.log", "line.txt", "both.bin", "out.json",
    "spoken.txt", "named.json", "spaces/inner.py",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_imports_and_files_that_are_read(folder):
    (folder / "source.py").write_text(SOURCE)
    found = follow_imports(folder / "source.py")
    assert sorted(found.files.values()) == sorted(["source.py", *FILES[:3], *FILES[4:8]])
    assert list(found.packages) == ["numpy", "PyYAML"]


def test_what_imports_in_turn_in_a_circle_relative_and_from_a_folder_without_a_file(folder):
    (folder / "found_package" / "submodule.py").write_text("from .other import x\nfrom . import deep\nimport source")
    (folder / "found_package" / "deep.py").write_text("from ..found_package import submodule\nimport spaces.inner")
    (folder / "source.py").write_text("import found_package.submodule")
    named = set(follow_imports(folder / "source.py").files.values())
    package = {f"found_package/{name}.py" for name in ("__init__", "submodule", "other", "deep")}
    assert named == {"source.py", "spaces/inner.py", *package}


def test_a_package_that_is_installed_elsewhere_counts_by_its_version(folder, monkeypatch):
    installed = folder / "libraries"
    for name, content in {
        "kit/__init__.py": "import found_late",
        "kit-2.5.dist-info/METADATA": "Name: kit\nVersion: 2.5\n",
    }.items():
        (installed / name).parent.mkdir(parents=True)
        (installed / name).write_text(content)
    monkeypatch.syspath_prepend(installed)
    (folder / "source.py").write_text("import kit.deep")
    found = follow_imports(folder / "source.py")
    assert found.packages == {"kit": "2.5"}
    assert list(found.files.values()) == ["source.py"]


def test_a_source_that_is_no_python_is_left_to_its_import(folder):
    (folder / "source.py").write_text("def (")
    assert list(follow_imports(folder / "source.py").files.values()) == ["source.py"]
