"""An analysis is read whole or refused; what is not finished is left out."""

import json
import subprocess
import sys

import numpy as np
import pytest
from analyses import write_analysis

from results.anatomy import write_analysis_page
from results.anatomy.analysis import read_analysis
from searcher.anatomy.parts import PARTS
from searcher.errors import UsageError


def test_every_part_is_read(tmp_path):
    made = write_analysis(tmp_path)
    analysis = read_analysis(tmp_path)
    assert tuple(analysis.parts) == PARTS
    for name, (arrays, facts) in made.items():
        part = analysis.parts[name]
        assert part.facts == facts
        assert part.cost["heads"] == 56
        for array, values in arrays.items():
            np.testing.assert_array_equal(part.arrays[array], values)
    assert "small & <b>bold</b> in float32 on prose, 5 search windows of 32 tokens" in analysis.setting


def test_a_part_that_is_not_finished_is_left_out(tmp_path):
    write_analysis(tmp_path, ["updates", "heads", "contiguous"])
    (tmp_path / "heads.json").unlink()  # facts are written last
    assert list(read_analysis(tmp_path).parts) == ["updates", "contiguous"]


def test_a_folder_without_analysis_or_finished_parts(tmp_path):
    with pytest.raises(UsageError, match=r"no analysis\.json"):
        read_analysis(tmp_path)
    write_analysis(tmp_path, [])
    with pytest.raises(UsageError, match="no finished part"):
        read_analysis(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("analysis.json", b"{"),
        ("analysis.json", b'{"model": "one"}'),
        ("updates.json", b"[]"),
        ("updates.npz", b"PK\x03\x04 and then nothing"),
        ("updates.npz", b""),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    write_analysis(tmp_path, ["updates"])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        read_analysis(tmp_path)


def test_missing_arrays_are_named(tmp_path):
    write_analysis(tmp_path, ["updates"])
    (tmp_path / "updates.npz").unlink()
    with pytest.raises(UsageError, match=r"updates\.npz"):
        read_analysis(tmp_path)


@pytest.mark.parametrize(
    ("array", "values"),
    [("mean", None), ("mean", np.zeros(3)), ("mean", np.zeros((12, 1))), ("mean", np.array(["x"] * 12))],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, array, values):
    arrays = write_analysis(tmp_path, ["updates"])["updates"][0]
    changed = {name: kept for name, kept in (arrays | {array: values}).items() if kept is not None}
    np.savez(tmp_path / "updates.npz", **changed)
    with pytest.raises(UsageError, match=f"'{array}'"):
        read_analysis(tmp_path)


def test_a_map_of_another_number_of_blocks_is_refused(tmp_path):
    write_analysis(tmp_path, ["contiguous"], num_blocks=7)
    with pytest.raises(UsageError, match="does not fit"):
        read_analysis(tmp_path)


def test_reading_loads_nothing_that_measures():
    code = "import sys, results.anatomy; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers"} & set(loaded)
    assert [one for one in loaded if one.startswith("searcher.anatomy.")] == ["searcher.anatomy.parts"]  # their names


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["analysis.json", *(f"{part}.{kind}" for part in PARTS for kind in ("json", "npz"))])
def test_a_file_that_is_cut_short_is_named(tmp_path, name, share):
    write_analysis(tmp_path)
    content = (tmp_path / name).read_bytes().rstrip()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(UsageError, match=name.replace(".", r"\.")) as error:
        read_analysis(tmp_path)
    part = name.partition(".")[0]
    assert (f"--part {part}" if part in PARTS else "--name") in error.value.hint


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("file", ["facts", "record"])
def test_a_key_that_is_missing_is_named_or_makes_no_difference(tmp_path, part, file):
    write_analysis(tmp_path, [part])
    path = tmp_path / ("analysis.json" if file == "record" else f"{part}.json")
    content = json.loads(path.read_text())
    needless = set()
    for key in content:
        path.write_text(json.dumps({name: value for name, value in content.items() if name != key}))
        try:
            read_analysis(tmp_path)
            needless.add(key)
        except UsageError as error:
            told = error.message
            if not told.endswith(f"{path.name} is damaged: '{key}' is missing"):
                pytest.fail(told)
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in needless}))
    if file == "facts":
        write_analysis_page(tmp_path)
    else:
        assert needless <= {"parts"}
