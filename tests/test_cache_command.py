"""`searcher cache`: what is kept, and clearing what can be computed again."""

import pytest


@pytest.fixture
def call(searcher_command, tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEARCHER_CACHE_LIMIT")

    def run(*arguments):
        done = searcher_command("cache", *arguments, defaults=False)
        assert done.code == 0, done.err
        return {line.split("  ")[0]: line.split() for line in done.out.splitlines()}

    return run


def test_an_empty_cache_is_shown(call, tmp_path):
    rows = call()
    assert rows["what was computed on dense models"][-7:-1] == ["models", "0", "0.0", "MB", "1,073.7", "MB"]
    assert rows["converted GGUF files"][-1] == str(tmp_path / "cache" / "models")
    assert not (tmp_path / "cache").exists()


def test_what_was_computed_is_cleared_and_nothing_else(call, searcher_command, tmp_path):
    models = tmp_path / "cache" / "models" / "abc"
    models.mkdir(parents=True)
    (models / "model.safetensors").write_bytes(b"0" * 2_000_000)
    done = searcher_command("run", "--strategy", "influence", "--budget", "1", "--objective", "kl", "--name", "one")
    assert done.code == 0, done.err
    dense = call()["what was computed on dense models"]
    assert dense[6] == "3"  # a statistic, and a reference of both splits
    assert float(dense[7]) >= 0
    rows = call("--clear")
    assert rows["what was computed on dense models"][6:8] == ["0", "0.0"]
    assert rows["converted GGUF files"][3:5] == ["1", "2.0"]
    assert (models / "model.safetensors").is_file()
    assert call("--clear")["what was computed on dense models"][6] == "0"  # twice does no harm


def test_a_bad_limit_is_one_clear_line(searcher_command, monkeypatch):
    monkeypatch.setenv("SEARCHER_CACHE_LIMIT", "lots")
    done = searcher_command("cache", defaults=False)
    assert done.code == 2
    assert done.err.startswith("Error: SEARCHER_CACHE_LIMIT is 'lots'")
