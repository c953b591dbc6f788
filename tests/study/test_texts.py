"""What the study reads."""

import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from searcher.errors import UsageError
from study import texts
from study.grammar import PHENOMENA, items

ROOT = Path(__file__).parent.parent.parent


def test_items_are_pairs_that_differ_and_whose_answers_alternate():
    made = items(12)
    assert len(made) == 12 * len(PHENOMENA)
    assert made == items(12)
    for item in made:
        one, other = item["choices"]
        assert one != other
        assert item["context"]
    assert sum(item["answer"] for item in made) == len(made) // 2
    assert len({json.dumps([item["context"], sorted(item["choices"])]) for item in made}) == len(made)


@pytest.mark.parametrize(
    ("context", "right"),
    [
        ("The key in the houses", "is very old."),
        ("The keys in the house", "are very old."),
        ("The nurses that the boy liked", "were very old."),
        ("The nurse that the boys liked", "was very old."),
        ("Nobody wanted to look at these red", "knives again."),
        ("The letter was", "stolen by the king."),
        ("The boys never hurt", "themselves."),
    ],
)
def test_the_right_choice_is_right(context, right):
    pairs = [pair for phenomenon in PHENOMENA for pair in phenomenon()]
    assert right in {pair.right for pair in pairs if pair.context == context}
    assert right not in {pair.wrong for pair in pairs if pair.context == context}


def test_no_pair_is_right_in_one_place_and_wrong_in_another():
    pairs = [pair for phenomenon in PHENOMENA for pair in phenomenon()]
    assert not {(p.context, p.right) for p in pairs} & {(p.context, p.wrong) for p in pairs}


def test_prose_comes_from_the_package_without_importing_it(tmp_path, monkeypatch):
    corpus = tmp_path / "gensim" / "test" / "test_data" / "lee_background.cor"
    corpus.parent.mkdir(parents=True)
    corpus.write_text("one article\n\nanother article \n")
    spec = ModuleSpec("gensim", None, origin=str(tmp_path / "gensim" / "__init__.py"))
    monkeypatch.setattr(texts, "find_spec", {"gensim": spec}.get)
    written = texts.write_texts(tmp_path / "texts", None, None)
    with open(written.prose) as file:
        assert [json.loads(line)["text"] for line in file] == ["one article", "another article"]
    with open(written.choices) as file:
        assert [json.loads(line) for line in file] == items(texts.ITEMS_EACH)


def test_without_the_package_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="gensim") as error:
        texts.write_texts(tmp_path, None, None)
    assert "make study" in error.value.hint


def test_code_is_python():
    modules = texts.modules()
    assert len(modules) > 20
    for source in modules:
        compile(source, "module", "exec")


def test_the_command_says_what_is_missing(tmp_path):
    command = [sys.executable, "-m", "study", "--draw", "--page", str(tmp_path / "none.md")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "searches.csv cannot be read" in done.stderr
    assert "make study" in done.stderr
    assert "Traceback" not in done.stderr
