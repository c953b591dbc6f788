"""The tables of the benchmarks' page, and the command that takes all their figures."""

import importlib
import inspect
import json
import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as suite
from benchmarks.setting import RESULTS, Setting
from benchmarks.tables import README, markdown, write_tables

FIGURES = {
    "title": "Head and loss",
    "date": "2026-01-02",
    "machine": {"processor": "Fast", "amx_bf16": True, "cores": 2, "gpu": None, "torch": "2.13.0"},
    "weights_gib": 0.25,
    "rows": [
        {"way": "product", "us per token": 12.3456, "run": 3.0},
        {"way": "slices", "us per token": 9.0, "run": 4.0},
    ],
}


def test_a_table_says_what_it_was_taken_on():
    assert markdown(FIGURES) == (
        "| way | us per token |\n"
        "| --- | ---: |\n"
        "| product | 12.35 |\n"
        "| slices | 9 |\n"
        "\n"
        "Head and loss. weights gib 0.25; 2 cores of Fast with AMX; torch 2.13.0; 2026-01-02."
    )


def test_tables_go_where_the_page_has_a_place_for_them(tmp_path):
    (tmp_path / "head-cpu.json").write_text(json.dumps(FIGURES))
    (tmp_path / "other.json").write_text(json.dumps(FIGURES | {"title": "Other"}))
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- measured: head-cpu -->\nold\n<!-- end of head-cpu -->\nafter\n")
    write_tables(tmp_path, page)
    assert page.read_text() == (
        f"before\n<!-- measured: head-cpu -->\n{markdown(FIGURES)}\n<!-- end of head-cpu -->\nafter\n"
    )


def test_the_page_shows_the_figures_that_are_kept(tmp_path):
    page = tmp_path / "README.md"
    page.write_bytes(README.read_bytes())
    write_tables(RESULTS, page)
    assert page.read_text() == README.read_text(), "run python -m benchmarks.tables"


def test_all_benchmarks_run_one_after_the_other_and_failures_are_counted(monkeypatch):
    commands = []

    def run(command):
        commands.append(command)
        return SimpleNamespace(returncode=1 if "benchmarks.head" in command else 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(suite, "write_tables", lambda *_: None)
    assert suite.main(["--device", "cpu"]) == [name for name, *_ in suite.SUITE].count("head") > 0
    assert commands == [
        [sys.executable, "-m", f"benchmarks.{name}", *options, "--device", "cpu"] for name, *options in suite.SUITE
    ]


@pytest.mark.parametrize("name", sorted({name for name, *_ in suite.SUITE}))
def test_what_is_given_to_all_benchmarks_each_of_them_takes(name):
    taken = inspect.signature(importlib.import_module(f"benchmarks.{name}").cli).parameters
    assert {field.name for field in fields(Setting)} <= taken.keys()
