"""What the guides say is true: their code runs as written, their commands exist, and their names are known."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import OPTIONS

import searcher
from benchmarks import healing
from searcher.anatomy.parts import PARTS
from searcher.contracts import registry

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = (DOCS / "strategies.md").read_text()
OBJECTIVES = (DOCS / "objectives.md").read_text()
HEALING = (DOCS / "healing.md").read_text()
ANATOMY = (DOCS / "anatomy.md").read_text()


def block(language, containing, guide=GUIDE):
    (found,) = [code for code in re.findall(rf"```{language}\n(.*?)```", guide, flags=re.DOTALL) if containing in code]
    return found


@pytest.fixture
def annealing(tmp_path):
    path = tmp_path / "annealing.py"
    path.write_text(block("python", "class Annealing"))
    return path


def test_the_strategy_runs_by_the_command_below_it(annealing, searcher_command):
    _, name, *arguments = block("sh", "annealing.py").split()
    done = searcher_command(name, *arguments)
    assert done.code == 0, done.err
    assert "strategy annealing.py:Annealing, granularity block, budget 3" in done.out


def test_the_strategy_keeps_the_contract(annealing, monkeypatch):
    monkeypatch.chdir(annealing.parent)
    names = {}
    exec(block("python", "StrategyContract"), names)
    contract = names["TestAnnealing"]()
    for test in [getattr(contract, name) for name in dir(contract) if name.startswith("test_")]:
        test()


def test_the_entry_point_is_of_the_group_that_is_read():
    assert f"searcher.{registry.PLURAL['strategy']}" in block("toml", "entry-points")


def test_every_strategy_is_in_the_guide():
    for name in registry.BUILT_IN["strategy"]:
        assert f"**{name}**" in GUIDE
        assert f"`{name}`" in GUIDE


@pytest.mark.slow
def test_the_listing_of_costs(searcher_command):
    _, *arguments = block("sh", "--verbose").split()
    shown = searcher_command(*arguments, defaults=False)
    assert shown.code == 0, shown.err
    assert "To remove 8 of 30 units" in shown.out
    greedy = next(line for line in shown.out.splitlines() if line.startswith("│ greedy"))
    assert "212" in greedy
    assert "| 212 |" in GUIDE


@pytest.fixture
def hard(tmp_path):
    path = tmp_path / "hard.py"
    path.write_text(block("python", "class HardTokens", OBJECTIVES))
    return path


def test_the_objective_is_of_twenty_lines_and_runs_by_the_command_below_it(hard, searcher_command):
    assert len([line for line in hard.read_text().splitlines() if line.strip()]) <= 20
    _, name, *arguments = block("sh", "hard.py", OBJECTIVES).split()
    done = searcher_command(name, *arguments)
    assert done.code == 0, done.err
    assert "report hard.py:HardTokens (95% interval)" in " ".join(done.out.split())


def test_the_objective_from_python(hard, tiny, monkeypatch, capsys):
    """With the tiny checkpoint in place of the default model."""
    place = {"model": str(tiny / "model"), "data": str(tiny / "text.jsonl"), "quiet": True, **OPTIONS}
    run = searcher.run
    monkeypatch.setattr(searcher, "run", lambda **options: run(**options, **place))
    monkeypatch.chdir(hard.parent)
    exec(block("python", "searcher.run(objective", OBJECTIVES), {})
    assert "Estimate(value=" in capsys.readouterr().out


def test_the_objective_keeps_the_contract(hard, monkeypatch):
    monkeypatch.chdir(hard.parent)
    names = {}
    exec(block("python", "ObjectiveContract", OBJECTIVES), names)
    contract = names["TestHardTokens"]()
    for test in [getattr(contract, name) for name in dir(contract) if name.startswith("test_")]:
        test()


def test_every_objective_is_in_its_guide():
    for name in registry.BUILT_IN["objective"]:
        assert f"`{name}`" in OBJECTIVES
    assert f"searcher.{registry.PLURAL['objective']}" in block("toml", "entry-points", OBJECTIVES)


@pytest.mark.parametrize("command", re.findall(r"^searcher (run (?:.*\\\n)*.*)$", OBJECTIVES, flags=re.MULTILINE))
def test_the_commands_of_the_objectives_guide(command, searcher_command, tmp_path):
    """Each with a smaller budget, since the tiny checkpoint has 6 blocks."""
    if "hard.py" in command:
        return  # tried above
    items = [{"context": f"q{i}", "choices": ["yes", "no"], "answer": i % 2} for i in range(8)]
    (tmp_path / "piqa.jsonl").write_text("\n".join(map(json.dumps, items)))
    words = [" ".join(f"{kind}{i}" for i in range(2000)) for kind in ("news", "code")]
    (tmp_path / "news.txt").write_text(words[0])
    (tmp_path / "code.jsonl").write_text(json.dumps({"text": words[1]}))
    text = re.sub(r"--budget (\S+)", lambda m: f"--budget {'1-4' if '-' in m[1] else 5}", command.replace("\\\n", " "))
    strategy = [] if "--strategy" in text else ["--strategy", "influence"]
    done = searcher_command(*text.split(), *strategy, "--max-evaluations", "20")
    assert done.code == 0, done.err


def test_every_healing_is_in_the_guide():
    for name in registry.BUILT_IN["healing"]:
        assert f"`{name}`" in HEALING


def test_the_healing_runs_by_the_command_below_it(searcher_command, tmp_path):
    (tmp_path / "louder.py").write_text(block("python", "class Louder", HEALING))
    _, name, *arguments = block("sh", "louder.py", HEALING).split()
    done = searcher_command(name, *arguments, "--heal-windows", "12")
    assert done.code == 0, done.err
    assert "louder.py:Louder:factor=1.02" in done.out


def test_healing_from_python(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = {name: value for name, value in OPTIONS.items() if name != "windows"}
    options = {"model": str(tiny / "model"), "data": str(tiny / "text.jsonl"), "heal_windows": 12, **small}
    real = searcher.heal
    monkeypatch.setattr(searcher, "heal", lambda **given: real(**given, **options))
    exec(block("python", "found.healed", HEALING), {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["bias", "linear"]


@pytest.mark.parametrize("line", block("sh", "--heal-top", HEALING).strip().splitlines())
def test_searches_that_heal(line, searcher_command):
    _, name, *arguments = line.split()
    arguments[arguments.index("--budget") + 1] = "2"
    arguments = [re.sub(r"steps=\d+", "steps=4", argument) for argument in arguments]
    done = searcher_command(name, *arguments, *([] if "--heal-windows" in arguments else ["--heal-windows", "12"]))
    assert done.code == 0, done.err
    assert "heal" in done.out


@pytest.mark.parametrize("line", block("sh", "--part shapley", ANATOMY).strip().splitlines())
def test_the_analyses_of_the_guide(line, tiny, searcher_command, tmp_path):
    _, name, *arguments = line.split()
    small = ["--windows", "4", "--window-tokens", "16", "--dtype", "float32", "--device", "cpu"]
    given = ["--model", tiny / "model", "--data", tiny / "text.jsonl"]
    done = searcher_command(name, *arguments, *given, *small, defaults=False)
    assert done.code == 0, done.err
    (page,) = tmp_path.glob("runs/analysis-*/analysis.html")
    assert done.out.strip() == str(page.relative_to(tmp_path))
    for path in page.parent.glob("*.npz"):
        (row,) = [row for row in ANATOMY.splitlines() if row.startswith(f"| `{path.name}` |")]
        assert set(re.findall(r"`([\w-]+)`", row)) == set(np.load(path).files)


def test_every_part_is_in_the_guide():
    for part in PARTS:
        assert f"| `{part}` |" in ANATOMY


def test_an_analysis_from_python(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = {name: value for name, value in OPTIONS.items() if name != "report_windows"}
    place = {"model": str(tiny / "model"), "data": str(tiny / "text.jsonl"), **small}
    analyze = searcher.analyze
    monkeypatch.setattr(searcher, "analyze", lambda **options: analyze(**options, **place))
    exec(block("python", "searcher.analyze", ANATOMY), {})
    one, other, value = capsys.readouterr().out.split()
    assert {one, other} <= set("012345")
    assert np.isfinite(float(value))


def test_the_tables_of_the_guide_to_healing_follow_from_what_was_measured():
    content = json.loads(healing.KEPT.read_text())
    assert list(content["plans"]) == list(healing.PLANS)
    base = healing.recipes(content["setting"]["steps"])[0][0]
    assert "\n".join(healing.tables(content, base)).rstrip() in HEALING
