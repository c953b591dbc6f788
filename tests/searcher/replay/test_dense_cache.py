"""What is computed on the dense model is kept between runs: the same bits, charged in full, never a reason to fail."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from searcher.errors import UsageError
from searcher.replay.dense_cache import DenseCache, location
from searcher.runs.notation import parse_bytes

IDS = torch.arange(12).reshape(3, 4)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEARCHER_CACHE_LIMIT", raising=False)


def value(number=1.5):
    return {"it": torch.full((2, 3), number), "half": torch.ones(3, dtype=torch.bfloat16)}


def files():
    return sorted(location().rglob("output.pkl"))


def get(cache, computed, what="it", ids=IDS):
    def compute():
        computed.append(what)
        return value()

    return cache.get(what, [ids], compute)


def test_what_was_computed_once_is_there_the_next_time_and_has_the_same_bits():
    computed = []
    first, kept = get(DenseCache({"model": "a"}), computed)
    again, kept_again = get(DenseCache({"model": "a"}), computed)
    assert (kept, kept_again, computed) == (False, True, ["it"])
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) and first[name].dtype == again[name].dtype for name in first)


@pytest.mark.parametrize(
    ("identity", "what", "ids"),
    [
        ({"model": "b"}, "it", IDS),
        ({"model": "a", "torch": "3"}, "it", IDS),
        ({"model": "a"}, "other", IDS),
        ({"model": "a"}, "it", IDS + 1),
        ({"model": "a"}, "it", IDS.reshape(4, 3)),
        ({"model": "a"}, "it", IDS.int()),
    ],
)
def test_whatever_decides_the_numbers_is_in_the_key(identity, what, ids):
    get(DenseCache({"model": "a"}), [])
    assert get(DenseCache(identity), [], what, ids)[1] is False


def test_another_source_of_the_engine_is_another_key(monkeypatch):
    get(DenseCache({"model": "a"}), [])
    monkeypatch.setattr("searcher.replay.dense_cache.own_source", lambda: "changed")
    assert get(DenseCache({"model": "a"}), [])[1] is False


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, flip, lambda path: path.write_text("no pickle"), Path.unlink])
def test_a_damaged_entry_is_computed_again_and_then_sound(damage, capfd):
    get(DenseCache({}), [])
    (path,) = files()
    damage(path)
    computed, told = [], []
    found, kept = get(DenseCache({}, told.append), computed)
    assert not kept
    assert computed == ["it"]
    assert torch.equal(found["it"], value()["it"])
    assert get(DenseCache({}), [])[1]
    assert capfd.readouterr() == ("", "")


def test_a_cache_that_cannot_be_written_is_told_once_and_nothing_fails(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEARCHER_CACHE", str(tmp_path / "file" / "below"))
    told, computed = [], []
    cache = DenseCache({}, told.append)
    for what in ("one", "two"):
        assert not get(cache, computed, what)[1]
    assert computed == ["one", "two"]
    assert len(told) == 1
    assert "is computed again" in told[0]


def test_a_full_disk_is_told_once_and_nothing_fails(monkeypatch):
    from joblib import numpy_pickle

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numpy_pickle, "dump", full)
    told = []
    cache = DenseCache({}, told.append)
    for what in ("one", "two"):
        assert torch.equal(get(cache, [], what)[0]["it"], value()["it"])
    assert len(told) == 1
    assert "No space left" in told[0]


def test_what_fails_while_it_is_computed_is_not_hidden():
    def fail():
        raise UsageError("the objective failed")

    with pytest.raises(UsageError, match="the objective failed"):
        DenseCache({}).get("it", [IDS], fail)


def test_it_stays_within_its_limit_and_large_things_are_not_kept(monkeypatch):
    monkeypatch.setenv("SEARCHER_CACHE_LIMIT", "0.1MB")
    cache = DenseCache({})
    for number in range(12):
        cache.get(str(number), [IDS], lambda: {"it": torch.zeros(5000)})  # 20 kB
    assert sum(path.stat().st_size for path in files()) <= parse_bytes("0.1MB")
    assert len(files()) >= 3
    cache.get("large", [IDS], lambda: {"it": torch.zeros(10_000)})
    assert cache.get("large", [IDS], lambda: {"it": torch.zeros(10_000)})[1] is False


def test_it_can_be_turned_off_and_a_bad_limit_is_refused(monkeypatch):
    monkeypatch.setenv("SEARCHER_CACHE_LIMIT", "0")
    cache = DenseCache({})
    assert not get(cache, [])[1]
    assert not get(cache, [])[1]
    monkeypatch.setenv("SEARCHER_CACHE_LIMIT", "much")
    with pytest.raises(UsageError, match="SEARCHER_CACHE_LIMIT is 'much'"):
        DenseCache({})


OBJECTIVES = ("--objective", "perplexity", "--objective", "kl", "--objective", "js", "--screening", "0.5")


def run(command, name, *arguments):
    given = ("--strategy", "greedy", "--budget", "2", "--name", name, "--runs-dir", name, "--format", "json")
    done = command("run", *given, *arguments)
    assert done.code == 0, done.err
    document = json.loads(done.out)
    lines = [json.loads(line) for line in Path(document["run"], "evaluations.jsonl").read_text().splitlines()]
    return document, [(line["split"], line["plan"], line["values"]) for line in lines]


def test_a_run_has_the_same_bits_and_charge_with_it_and_without(searcher_command, monkeypatch):
    monkeypatch.setenv("SEARCHER_CACHE_LIMIT", "0")
    without, plain = run(searcher_command, "without", *OBJECTIVES)
    assert not location().exists()
    monkeypatch.delenv("SEARCHER_CACHE_LIMIT")
    first, filled = run(searcher_command, "first", *OBJECTIVES)
    second, used = run(searcher_command, "second", *OBJECTIVES)
    assert plain == filled == used
    assert without["cost"]["charged"] == first["cost"]["charged"] == second["cost"]["charged"]
    assert first["cost"]["executed"]["total"] == pytest.approx(without["cost"]["executed"]["total"])
    saved = first["cost"]["executed"]["layer_forwards"] - second["cost"]["executed"]["layer_forwards"]
    assert saved == 6 * 4  # the dense pass that `kl` and `js` share; screening finds the states of the search
    assert first["cost"]["executed"]["heads"] - second["cost"]["executed"]["heads"] == (2 + 2 + 1) * 4


@pytest.mark.parametrize("metric", ["taylor", "logits", "cosine", "magnitude"])
def test_statistics_are_measured_once_for_all_runs(searcher_command, metric, monkeypatch):
    arguments = ("--strategy", "influence", "--strategy-arg", f"metric={metric}")
    first, _ = run(searcher_command, "first", *arguments)
    monkeypatch.setattr("searcher.replay.dense_statistics.measure_statistics", None)  # not needed any more
    second, _ = run(searcher_command, "second", *arguments)
    assert first["best"] == second["best"]
    assert first["cost"]["charged"] == second["cost"]["charged"]
    kept = [json.loads(Path(one["run"], "run.json").read_text())["statistics"] for one in (first, second)]
    assert kept[0] == kept[1]
    if metric != "magnitude":
        assert second["cost"]["executed"]["total"] < first["cost"]["executed"]["total"]
    again, _ = run(searcher_command, "second", *arguments)
    assert again["cost"] == second["cost"]


def test_a_run_survives_a_cache_folder_that_is_a_file(searcher_command, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEARCHER_CACHE", str(tmp_path / "file"))
    done = searcher_command("run", "--strategy", "influence", "--budget", "1", "--objective", "kl")
    assert done.code == 0, done.err
    assert done.err.count("is of no use") + done.err.count("cannot be kept") == 1


def test_kept_numbers_are_those_of_numpy(searcher_command):
    values = np.array([1.0, np.nan, np.inf])
    cache = DenseCache({})
    cache.keep("it", [IDS], {"values": torch.from_numpy(values)})
    np.testing.assert_array_equal(cache.find("it", [IDS])["values"].numpy(), values)
