"""The README's examples do what it says."""

import re
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import OPTIONS
from typer.testing import CliRunner

import searcher
from searcher.cli.app import app
from searcher.contracts.games import additive_game, make_space, play
from searcher.runs.config import RunConfig
from searcher.runs.options import make_config
from searcher.testing import ObjectiveContract, StrategyContract

README = (Path(__file__).parent.parent / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def saved(folder, class_name):
    """The block that defines this class, as a file of the user's: what to pass on the command line."""
    (code,) = [block for block in PYTHON if f"class {class_name}(" in block]
    path = folder / "mine.py"
    path.write_text(code)
    return f"{path}:{class_name}"


def test_the_strategy_of_ones_own(tmp_path):
    class Contract(StrategyContract):
        name = saved(tmp_path, "Pairs")

    contract = Contract()
    contract.test_asks_for_legal_plans_and_returns_the_full_size()
    contract.test_same_seed_same_questions_in_a_fresh_process()
    contract.test_can_be_stopped_at_any_ask()
    assert play(contract.make(), make_space(9, 4), additive_game()).outcome.plans[0].size("block") == 4


def test_the_objective_of_ones_own(tmp_path):
    class Contract(ObjectiveContract):
        name = saved(tmp_path, "TopOne")

    contract = Contract()
    contract.test_documents_itself()
    contract.test_gives_finite_values()
    contract.test_a_plan_does_not_depend_on_the_others()
    contract.test_a_broken_model_is_no_error()


def test_the_example_in_python(tiny, tmp_path, monkeypatch, capsys):
    """With the tiny checkpoint in place of the default model."""
    (code,) = [block for block in PYTHON if "searcher.run(" in block]
    place = {"model": str(tiny / "model"), "data": str(tiny / "text.jsonl"), "quiet": True, **OPTIONS}
    run = searcher.run
    monkeypatch.setattr(searcher, "run", lambda **options: run(**{**options, "keep": "0,5"}, **place))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    plan, front = capsys.readouterr().out.splitlines()
    assert "Estimate(value=" in plan
    assert re.fullmatch(r"\[(\(\d, .[\d,-]+.\)(, )?)+\]", front)


COMMANDS = re.findall(r"^\.venv/bin/searcher (.*)$", README, flags=re.MULTILINE)
OPTION_ROWS = re.findall(r"^\| (`--.*?`) \|", README, flags=re.MULTILINE)
OPTIONS_SHOWN = [option for row in OPTION_ROWS for option in re.findall(r"`(--[^`]+)`", row)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_in_the_readme_exists(command):
    name, *rest = command.split()
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
    assert {option for option in rest if option.startswith("--")} <= set(re.findall(r"--[\w-]+", shown))


@pytest.mark.parametrize("option", OPTIONS_SHOWN)
def test_every_row_of_the_table_of_options_is_one_that_run_takes_with_such_a_value(option, monkeypatch):
    taken = []
    monkeypatch.setattr(searcher, "run", lambda **options: taken.append(make_config(RunConfig, options)) or sys.exit(0))
    flag, *value = option.split()
    given = ["run", *([] if flag == "--budget" else ["--budget", "8"]), flag, *(value or ["1"])]
    if flag.startswith("--max-") and flag not in ("--max-evaluations", "--max-cost"):
        given += ["--granularity", "sublayer"]
    if flag == "--weight":
        given += ["--objective", "perplexity", "--objective", value[0].partition("=")[0]]
    if flag == "--robust":
        given += ["--data", "a.txt", "--data", "b.txt"]
    done = CliRunner().invoke(app, given)
    assert taken, done.output
    field = flag.removeprefix("--").replace("-", "_")
    assert getattr(taken[0], field) != RunConfig.model_fields[field].default or not value


def test_the_count_of_families():
    from families import FAMILIES

    told = re.search(r"(\d+) configurations of (\d+) families", README)
    kinds = {name.removesuffix("_new") for name in FAMILIES}
    assert (int(told[1]), int(told[2])) == (len(FAMILIES), len(kinds))
