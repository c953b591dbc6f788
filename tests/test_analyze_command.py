"""`searcher analyze` as a user runs it."""

import json

import numpy as np
import pytest

from searcher.parts import PARTS


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
    again = searcher_command("analyze", *options, *asked, defaults=False)
    assert again.code == 0
    assert "layer-forwards" not in again.err


def test_an_unknown_part_is_refused(searcher_command, options):
    done = searcher_command("analyze", *options, "--part", "interaction", defaults=False)
    assert done.code == 2
    assert "Choose some of influence" in done.err
