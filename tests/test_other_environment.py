"""Numbers of two versions, or two kinds of processor, are never mixed in one run; what is finished is still shown."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from choices import make_items, write_items

from searcher.loading.environment import SETTINGS, environment
from searcher.runs.identity import environment_changes, measurement_identity

RUN = ("run", "--strategy", "greedy", "--budget", "2")
CHANGES = [
    ({"torch": "2.1.0"}, "torch was 2.1.0, now 2."),
    ({"numpy": "1.0", "tokenizers": "0.1"}, "tokenizers was 0.1, now 0."),
    ({"instructions": "avx2 avx512_of_old"}, "the processor had avx512_of_old, now has "),
    ({"capability": "NO AVX"}, "capability was NO AVX, now "),
    ({"processor": "Other maker"}, "processor was Other maker, now "),
    ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "ONEDNN_MAX_CPU_ISA was AVX2, now none"),
    ({"float32 products": "high"}, "float32 products was high, now highest"),
]


def change(name, unfinished=False, **fields):
    """Let a run be one that was made elsewhere."""
    path = Path("runs", name, "run.json")
    record = json.loads(path.read_text())
    record["environment"] |= fields
    if unfinished:
        del record["outcome"]
        cut(name)
    path.write_text(json.dumps(record))


def cut(name):
    journal = Path("runs", name, "evaluations.jsonl")
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:3]))


def make_old(name, unfinished=False):
    """Let a run be one of a version that kept less."""
    path = Path("runs", name, "run.json")
    record = json.loads(path.read_text())
    record.pop("environment", None)
    for field in [name for name in record["identity"] if name.endswith("_reads") or name == "extra_fingerprint"]:
        del record["identity"][field]
    if unfinished:
        del record["outcome"]
        cut(name)
    path.write_text(json.dumps(record))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in (*SETTINGS, "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)


def test_a_run_begun_elsewhere_is_not_gone_on_with(searcher_command):
    assert searcher_command(*RUN, "--name", "a").code == 0
    change("a", unfinished=True, **{name: value for fields, _ in CHANGES for name, value in fields.items()})
    before = {path: path.read_bytes() for path in Path("runs/a").iterdir()}
    done = searcher_command(*RUN, "--name", "a")
    assert done.code == 2
    assert "Error: runs/a cannot be gone on with: " in done.err
    assert "use another --name" in done.err
    assert all(told in done.err for _, told in CHANGES)
    assert {path: path.read_bytes() for path in Path("runs/a").iterdir()} == before


@pytest.mark.parametrize(("fields", "told"), CHANGES, ids=[" ".join(fields) for fields, _ in CHANGES])
def test_each_change_is_told_and_nothing_is_shared(fields, told):
    now = environment(torch.device("cpu"))
    record = {"format": 1, "identity": {}, "environment": now | fields}
    assert any(change.startswith(told) for change in environment_changes(record, now))
    assert len(environment_changes(record, now)) == len(fields)
    assert environment_changes({**record, "environment": now}, now) == []
    assert measurement_identity(record) != measurement_identity({**record, "environment": now})


def test_fewer_instructions_are_another_environment():
    code = "import torch; from searcher.loading.environment import environment; print(environment(torch.device('cpu')))"
    fewer = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    told = [
        ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], env={**os.environ, **more}, text=True))
        for more in ({}, fewer)
    ]
    changes = environment_changes({"environment": told[0]}, told[1])
    assert {change.split(" was ")[0] for change in changes} >= {"capability", "ONEDNN_MAX_CPU_ISA"}


def test_the_same_rule_holds_for_the_default_name(searcher_command):
    assert searcher_command(*RUN).code == 0
    (folder,) = Path("runs").iterdir()
    change(folder.name, unfinished=True, torch="2.1.0")
    assert "torch was 2.1.0" in searcher_command(*RUN).err


def test_a_finished_run_is_shown_elsewhere_as_it_was_measured(searcher_command):
    first = searcher_command(*RUN, "--name", "a", "--max-evaluations", "20")
    change("a", torch="2.1.0")
    before = {path: path.read_bytes() for path in Path("runs/a").iterdir()}
    again = searcher_command(*RUN, "--name", "a", "--max-evaluations", "20")
    assert again.out == first.out
    assert "runs/a is shown as it was measured; nothing can be added: torch was 2.1.0, now" in again.err
    assert {path: path.read_bytes() for path in Path("runs/a").iterdir()} == before
    more = searcher_command(*RUN, "--name", "a", "--max-evaluations", "40")  # would be measured
    assert more.code == 2
    assert "torch was 2.1.0" in more.err


def test_a_run_of_an_older_version_is_gone_on_with_where_all_that_it_kept_is_the_same(searcher_command):
    first = searcher_command(*RUN, "--name", "a")
    make_old("a")
    assert searcher_command(*RUN, "--name", "a").out == first.out
    make_old("a", unfinished=True)
    assert "shared" not in searcher_command(*RUN, "--name", "b").err
    assert searcher_command(*RUN, "--name", "a").out == first.out
    make_old("a", unfinished=True)
    path = Path("runs/a/run.json")
    record = json.loads(path.read_text())
    record["versions"]["transformers"] = "4.0"
    path.write_text(json.dumps(record))
    done = searcher_command(*RUN, "--name", "a")
    assert done.code == 2
    assert "transformers was 4.0, now" in done.err


def test_a_run_of_an_older_version_that_did_not_keep_what_it_read_is_only_shown(searcher_command, tmp_path):
    write_items(tmp_path / "q.jsonl", make_items(24))
    asked = (*RUN, "--objective", "accuracy", "--objective-arg", "file=q.jsonl", "--name", "a")
    first = searcher_command(*asked)
    make_old("a")
    again = searcher_command(*asked)
    assert again.out == first.out
    told = "an older version of searcher has not kept its extra_fingerprint, objective_reads"
    assert f"runs/a is shown as it was measured; nothing can be added: {told}" in again.err
    make_old("a", unfinished=True)
    done = searcher_command(*asked)
    assert done.code == 2
    assert f"runs/a cannot be gone on with: {told}" in done.err
