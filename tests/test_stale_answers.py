"""What an objective, healing or strategy reads or imports is a part of the run: changed, it is refused by name."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from choices import make_items, merging_tokenizer, write_items, write_task
from tiny_checkpoint import save_tiny_checkpoint

OBJECTIVE = """
import json
from pathlib import Path
import numpy as np
from searcher.contracts.objective import Objective

class Mine(Objective):
    '''A number of the plan, times a factor.'''
    unit = "points"
    reads = "plan"
    def __init__(self, file: str = ""):
        self.file = file
    def measure(self, candidate):
        return np.array([self.factor() * (1.0 + len(str(candidate.plan)))])
    def factor(self):
        FACTOR
"""
HEALING = """
from searcher.healing.contract import Healing
from searcher.replay.repair import Repair

class Mine(Healing):
    '''None.'''
    def __init__(self, file: str = ""):
        self.file = file
    def heal(self, calibration, plan):
        import helper_of_healing
        return Repair()
"""
STRATEGY = """
from dataclasses import dataclass
from searcher.contracts.plan import PrunePlan
from searcher.contracts.strategy import Ask, Outcome, Strategy

@dataclass(frozen=True)
class Mine(Strategy):
    '''One unit.'''
    file: str = ""
    def search(self, space):
        import helper_of_strategy
        plan = PrunePlan.of(space.units[helper_of_strategy.WHICH : helper_of_strategy.WHICH + space.size])
        yield Ask((plan,))
        return Outcome((plan,))
"""


def flip(file):
    """Every question gets another answer, of as many bytes."""
    items = [json.loads(line) for line in file.read_text().splitlines()]
    write_items(file, [item | {"answer": (item["answer"] + 1) % len(item["choices"])} for item in items])


def edit(file):
    file.write_text(file.read_text().replace("1", "5"))


def objective(factor):
    return lambda folder: (folder / "mine.py").write_text(OBJECTIVE.replace("FACTOR", factor))


@dataclass(frozen=True)
class Case:
    """What is written beside the run, how it is named, and what is changed then.

    Attributes:
        name: of the case.
        options: of the command line.
        file: that is changed.
        told: by which it is named.
        write: makes the plug-in, if it is one of the user's.
        files: more files, by path.
        change: what is done to the file.
        shares: whether another run may still take measurements over.
    """

    name: str
    options: str
    file: str
    told: str
    write: object = None
    files: tuple[tuple[str, str], ...] = ()
    change: object = edit
    shares: bool = False


MINE = "--objective mine=mine.py:Mine"
CASES = [
    Case("accuracy", "--objective accuracy --objective-arg file=q.jsonl", "q.jsonl", "objective 'accuracy': q.jsonl", change=flip),
    Case("stability", "--objective s=stability --objective-arg file=q.jsonl", "q.jsonl", "objective 's': q.jsonl", change=flip),
    Case(
        "a task of lm-eval",
        "--model model --objective lm=lm-eval --objective-arg task=task/made_up.yaml --objective-arg items=5",
        "task/made_up.yaml",
        "objective 'lm': task made_up has changed",
        change=lambda file: file.write_text(file.read_text() + "description: 'Choose: '\n"),
    ),
    Case(
        "the data of a task of lm-eval",
        "--model model --objective lm=lm-eval --objective-arg task=task/made_up.yaml --objective-arg items=5",
        "task/items.jsonl",
        "objective 'lm': the data of task made_up has changed",
        change=flip,
    ),
    Case(
        "a file that an option names",
        f"{MINE} --objective-arg file=./t.json",
        "t.json",
        "objective 'mine': t.json",
        objective("return json.loads(Path(self.file).read_text())"),
        (("t.json", "1"),),
    ),
    Case(
        "a folder that an option names",
        f"{MINE} --objective-arg file=tables",
        "tables/deep/t.json",
        "objective 'mine': tables",
        objective("return json.loads((Path(self.file) / 'deep' / 't.json').read_text())"),
        (("tables/deep/t.json", "1"),),
    ),
    Case(
        "a file that the source names",
        MINE,
        "t.json",
        "objective 'mine': t.json",
        objective("return json.loads((Path(__file__).parent / 't.json').read_text())"),
        (("t.json", "1"),),
    ),
    Case(
        "a helper imported in a function",
        MINE,
        "helper_late.py",
        "objective 'mine': helper_late.py",
        objective("import helper_late; return helper_late.FACTOR"),
        (("helper_late.py", "FACTOR = 1"),),
    ),
    Case(
        "a helper of a helper, in a package",
        MINE,
        "helpers_in/deep.py",
        "objective 'mine': helpers_in/deep.py",
        objective("from helpers_in import outer; return outer.FACTOR"),
        (("helpers_in/__init__.py", ""), ("helpers_in/outer.py", "from .deep import FACTOR"), ("helpers_in/deep.py", "FACTOR = 1")),
    ),
    Case(
        "a helper of a plug-in that is named as a module",
        "--objective mine=plugins_of.mine:Mine",
        "plugins_of/helper.py",
        "objective 'mine': plugins_of/helper.py",
        None,
        (
            ("plugins_of/__init__.py", ""),
            ("plugins_of/mine.py", OBJECTIVE.replace("FACTOR", "from . import helper; return helper.VALUE")),
            ("plugins_of/helper.py", "VALUE = 1"),
        ),
    ),
    Case(
        "a helper of a healing",
        "--heal healing.py:Mine --heal-top 1 --heal-windows 4",
        "helper_of_healing.py",
        "the healing: helper_of_healing.py",
        None,
        (("healing.py", HEALING), ("helper_of_healing.py", "SIZE = 1")),
    ),
    Case(
        "a file that an option of a healing names",
        "--heal healing.py:Mine:file=t.json --heal-top 1 --heal-windows 4",
        "t.json",
        "the healing: t.json",
        None,
        (("healing.py", HEALING), ("helper_of_healing.py", "SIZE = 1"), ("t.json", "1")),
    ),
    Case(
        "a helper of a strategy",
        "--strategy strategy.py:Mine",
        "helper_of_strategy.py",
        "the strategy: helper_of_strategy.py",
        None,
        (("strategy.py", STRATEGY), ("helper_of_strategy.py", "WHICH = 1")),
        shares=True,
    ),
    Case(
        "a file that an option of a strategy names",
        "--strategy strategy.py:Mine --strategy-arg file=t.json",
        "t.json",
        "the strategy: t.json",
        None,
        (("strategy.py", STRATEGY), ("helper_of_strategy.py", "WHICH = 1"), ("t.json", "1")),
        shares=True,
    ),
]  # fmt: skip


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """Writes what a case needs, where Python finds it."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.syspath_prepend(tmp_path)

    def write(case):
        write_items(tmp_path / "q.jsonl", make_items(24))
        write_task(tmp_path / "task", make_items(24))
        if "lm-eval" in case.options:  # wants a token that a text begins with
            save_tiny_checkpoint(tmp_path / "model")
            merging_tokenizer().save_pretrained(tmp_path / "model")
        for name, content in case.files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        if case.write:
            case.write(tmp_path)

    return write


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_read_is_a_part_of_the_run(searcher_command, in_folder, case):
    in_folder(case)
    plain = [] if "--strategy" in case.options else ["--strategy", "random", "--strategy-arg", "samples=2"]
    arguments = ["run", "--budget", "1", *plain, *case.options.split(), "--name"]
    first = searcher_command(*arguments, "a")
    assert first.code == 0, first.err
    if "lm-eval" in case.options:  # its tasks hold functions and objects, which are other ones each time
        assert searcher_command(*arguments, "a").out == first.out
    case.change(Path(case.file))
    refused = searcher_command(*arguments, "a")
    assert refused.code == 2
    assert f"runs/a holds a run of another configuration: {case.told}" in refused.err
    assert "Use another --name" in refused.err
    assert ("shared with a" in searcher_command(*arguments, "b").err) == case.shares
