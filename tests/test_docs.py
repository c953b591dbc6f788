"""What the guides say is true: their code runs as written, their commands exist, and their names are known."""

import re
from pathlib import Path

import pytest

from searcher import registry

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = (DOCS / "strategies.md").read_text()


def block(language, containing):
    (found,) = [code for code in re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL) if containing in code]
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


def test_the_listing_of_costs(searcher_command):
    _, *arguments = block("sh", "--verbose").split()
    shown = searcher_command(*arguments, defaults=False)
    assert shown.code == 0, shown.err
    assert "To remove 8 of 30 units" in shown.out
    greedy = next(line for line in shown.out.splitlines() if line.startswith("│ greedy"))
    assert "212" in greedy
    assert "| 212 |" in GUIDE
