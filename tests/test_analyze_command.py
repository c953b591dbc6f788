"""`searcher analyze` as a user runs it."""

import json
import os
import re
import shlex
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from analyses import write_analysis
from scipy import stats

import searcher
from searcher.anatomy.parts import PARTS


@pytest.fixture
def options(tiny):
    given = ("--windows", 4, "--window-tokens", 16, "--dtype", "float32", "--device", "cpu", "--name", "one")
    return ("--model", tiny / "model", "--data", tiny / "text.jsonl", *given)


def test_every_part_is_kept_and_not_measured_again(searcher_command, options, tmp_path):
    folder = tmp_path / "runs/one"
    first = searcher_command("analyze", *options, "--part", "interactions", defaults=False)
    assert first.code == 0, first.err
    assert "interactions: " in first.err  # what it costs, before it starts
    asked = [text for part in PARTS for text in ("--part", part)]
    done = searcher_command("analyze", *options, *asked, "--budget", 64, defaults=False)
    assert done.code == 2  # another budget would be another analysis
    assert "shapley" in done.err
    kept = (folder / "interactions.npz").read_bytes()
    done = searcher_command("analyze", *options, *asked, defaults=False)
    assert done.code == 0, done.err
    assert "interactions:" not in done.err
    assert (folder / "interactions.npz").read_bytes() == kept
    record = json.loads((folder / "analysis.json").read_text())
    assert record["parts"] == list(PARTS)
    for part in PARTS:
        assert json.loads((folder / f"{part}.json").read_text())
        assert len(np.load(folder / f"{part}.npz").files) > 0
    matrix, dense = (np.load(folder / f"{part}.npz") for part in ("replacement", "influence"))
    assert np.diagonal(matrix["losses"][:, :, 0]) == pytest.approx(dense["dense"][0])
    page = (folder / "analysis.html").read_bytes()
    again = searcher_command("analyze", *options, *asked, defaults=False)
    assert again.code == 0
    assert again.out == "runs/one/analysis.html\n"
    assert "layer-forwards" not in again.err
    assert (folder / "analysis.html").read_bytes() == page


def test_the_made_up_analyses_of_other_tests_look_like_real_ones(searcher_command, options, tmp_path):
    asked = [text for part in PARTS for text in ("--part", part)]
    assert searcher_command("analyze", *options, *asked, defaults=False).code == 0
    real, made = tmp_path / "runs/one", tmp_path / "made"
    write_analysis(made)
    for part in PARTS:
        arrays, others = (np.load(folder / f"{part}.npz") for folder in (real, made))
        metrics = {
            "cosine",
            "relative-l1",
            "relative-l2",
            "magnitude",
            "taylor",
            "logits",
        }  # there may be more or fewer
        assert set(arrays.files) - metrics == set(others.files) - metrics, part
        assert {name: arrays[name].ndim for name in others.files} == {name: others[name].ndim for name in others.files}
        facts, told = (json.loads((folder / f"{part}.json").read_text()) for folder in (real, made))
        assert facts.keys() == told.keys(), part
    records = [json.loads((folder / "analysis.json").read_text()) for folder in (real, made)]
    assert records[0].keys() >= records[1].keys()


def test_an_unknown_part_is_refused(searcher_command, options):
    done = searcher_command("analyze", *options, "--part", "interaction", defaults=False)
    assert done.code == 2
    assert "Choose some of influence" in done.err


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A folder with a page of three parts."""
    folder, parts = tmp_path_factory.mktemp("analysis"), ("influence", "heads", "interactions")
    before = Path.cwd()
    os.chdir(folder)  # the page tells the options as they were given
    try:
        searcher.analyze(
            parts=parts, model=f"{tiny}/model", data=f"{tiny}/text.jsonl", name="one", quiet=True,
            windows=4, window_tokens=16, dtype="float32", device="cpu",
        )  # fmt: skip
    finally:
        os.chdir(before)
    return folder / "runs/one"


@pytest.fixture
def analyzed(made, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "runs/one"))


def tables(folder, part):
    """The rows of each table of a part on the page."""
    page = ET.fromstring((folder / "analysis.html").read_text().removeprefix("<!DOCTYPE html>\n"))
    (section,) = [section for section in page.iter("section") if section.get("id") == part]
    return [[["".join(cell.itertext()) for cell in row] for row in body] for body in section.iter("tbody")]


def number(cell):
    """The value of `0.512 [0.201, 0.731]`."""
    return float(cell.split()[0])


def test_the_page_shows_the_measured_parts_and_their_pictures(analyzed, searcher_command):
    page = (analyzed / "analysis.html").read_text()
    assert re.findall(r'<section id="(\w+)"', page) == ["influence", "heads", "interactions", "repeat"]
    for part in ("influence", "heads", "interactions"):
        assert (analyzed / f"{part}.png").read_bytes().startswith(b"\x89PNG")
        assert (analyzed / f"{part}.svg").stat().st_size > 1000
    command = shlex.split(re.search(r"<pre[^>]*>(.*?)</pre>", page, flags=re.DOTALL)[1].replace("\\\n", ""))
    assert command[:2] == ["searcher", "analyze"]
    again = searcher_command(*command[1:], defaults=False)
    assert again.code == 0, again.err
    assert "layer-forwards" not in again.err
    assert (analyzed / "analysis.html").read_text() == page


def test_the_numbers_of_the_page_are_those_of_the_arrays(analyzed):
    influence, pairs, heads = (np.load(analyzed / f"{part}.npz") for part in ("influence", "interactions", "heads"))
    losses = (influence["removed"] - influence["dense"]).mean(axis=1)
    metrics, units = tables(analyzed, "influence")
    assert len(metrics) == 6
    for name, _, correlation in metrics:
        assert number(correlation) == pytest.approx(stats.spearmanr(influence[name], losses)[0], abs=6e-4)
    assert {unit: number(loss) for unit, loss, *_ in units} == pytest.approx(
        dict(zip(map(str, range(6)), losses, strict=True)), abs=6e-5
    )
    interactions = pairs["per_window"].mean(axis=-1)
    redundant, complementary = tables(analyzed, "interactions")
    for listed, best in ((redundant, np.nanmax(interactions)), (complementary, np.nanmin(interactions))):
        one, other, _, value = listed[0]
        assert number(value) == pytest.approx(best, abs=6e-4)
        assert interactions[int(one), int(other)] == best
    assert len(redundant) + len(complementary) == 15
    for block, counted, _ in tables(analyzed, "heads")[0]:
        cosines = heads["cosines"][int(block)]
        alike = int((cosines[np.triu_indices(len(cosines), 1)] > 0.9).sum())
        assert counted == f"{alike} of {len(cosines) * (len(cosines) - 1) // 2}"


@pytest.mark.parametrize(("name", "content"), [("heads.npz", None), ("heads.npz", b"PK"), ("heads.json", b"{")])
def test_a_damaged_file_is_named(analyzed, searcher_command, options, name, content):
    (analyzed / name).unlink()
    if content is not None:
        (analyzed / name).write_bytes(content)
    done = searcher_command("analyze", *options, "--part", "influence", defaults=False)
    assert done.code == 2
    assert name in done.err.replace("\n", "")


@pytest.mark.parametrize(("name", "content"), [("heads.npz", b"PK"), ("heads.json", b"{"), ("heads.npz", None)])
def test_a_damaged_part_that_is_asked_for_is_measured_again(analyzed, searcher_command, options, name, content):
    before = dict(np.load(analyzed / "heads.npz"))
    (analyzed / name).unlink()
    if content is not None:
        (analyzed / name).write_bytes(content)
    done = searcher_command("analyze", *options, "--part", "heads", defaults=False)
    assert done.code == 0, done.err
    assert "heads is measured again" in " ".join(done.err.split())
    after = dict(np.load(analyzed / "heads.npz"))
    assert all(np.array_equal(before[array], after[array], equal_nan=True) for array in before)


def test_options_that_an_analysis_does_not_have_are_refused():
    with pytest.raises(searcher.UsageError, match="no option 'workers'"):
        searcher.analyze(workers=2)


def test_numbers_of_another_environment_are_shown_and_none_are_added(analyzed, searcher_command, options):
    path = analyzed / "analysis.json"
    path.write_text(path.read_text().replace('"float32 products": "highest"', '"float32 products": "high"'))
    before = path.read_bytes()
    assert searcher_command("analyze", *options, "--part", "influence", defaults=False).code == 0
    done = searcher_command("analyze", *options, "--part", "influence", "--part", "contiguous", defaults=False)
    assert done.code == 2
    assert "runs/one cannot be gone on with: float32 products was high, now highest" in done.err
    assert path.read_bytes() == before
