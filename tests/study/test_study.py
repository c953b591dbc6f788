"""The study on a model and text so small that all of it takes seconds: what it says follows from its files."""

import csv
import json
import math
import re

import numpy as np
import pytest
from scipy import stats
from tiny_checkpoint import OPTIONS

from searcher.contracts.plan import Granularity, PrunePlan
from study.conduct import conduct
from study.grammar import items
from study.page import write_page
from study.setting import Setting
from study.texts import Texts
from study.tiers import Space, Tier

pytestmark = pytest.mark.slow  # a study in small takes half a minute

BLOCK, FFN = Granularity.BLOCK, Granularity.FFN
TINY = Tier(
    name="tiny",
    data_seeds=(0, 1),
    report_windows=32,
    spaces=(Space(BLOCK, (2, 3), 4, (2,)), Space(FFN, (3,), 4, ())),
    strategies=("portfolio",),
    pairs=(BLOCK,),
    triples=(),
    narrowed=(2, 4),
    transfer=((BLOCK, 2), (FFN, 3)),
    healing="bias",
    healed={BLOCK: 2, FFN: 3},
    healed_seeds=(0,),
)


@pytest.fixture(scope="module")
def written(tiny, tmp_path_factory):
    """The folder of the page after a study, and its setting."""
    folder = tmp_path_factory.mktemp("study")
    choices = folder / "choices.jsonl"
    choices.write_text("".join(json.dumps(item) + "\n" for item in items(4)))
    text = str(tiny / "text.jsonl")
    options = {key: OPTIONS[key] for key in ("window_tokens", "dtype", "device")} | {"model": str(tiny / "model")}
    setting = Setting(TINY, folder / "runs", Texts(text, text, text, str(choices)), options)
    conduct(setting, folder / "study")
    (folder / "README.md").write_text(
        "before\n<!-- measured: study -->\nwhat was there\n<!-- end of study -->\nafter\n"
    )
    write_page(folder / "study", folder / "study.md", folder / "README.md")
    return folder, setting


def table(folder, name):
    with (folder / "study" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def rows(folder):
    return {
        (row["text"], row["measure"], row["plan"]): np.array([float(value) for value in row["values"].split()])
        for row in table(folder, "rows.csv")
    }


def test_every_search_and_certificate_is_in_the_tables(written):
    folder, _ = written
    searches = table(folder, "searches.csv")
    prose = [s for s in searches if s["text"] == "prose"]
    assert len(prose) == 2 * (2 * 2 + 1 + 2)
    assert {s["text"] for s in searches} == {"prose", "manual", "code", "choices"}
    for search in searches:
        assert PrunePlan.parse(search["plan"]).size(Granularity(search["granularity"])) == int(search["size"])
    assert len(table(folder, "certificates.csv")) == 1 + 2 * 2


def test_strategies_stay_within_the_allowance_and_are_never_worse_than_greedy(written):
    folder, _ = written
    found = {
        (s["text"], s["granularity"], s["size"], s["data_seed"], s["method"]): s
        for s in table(folder, "searches.csv")
        if s["objective"] == "perplexity"
    }
    for key, search in found.items():
        if key[-1] == "portfolio":
            greedy = found[*key[:-1], "greedy"]
            assert float(search["cost_charged"]) <= 1.5 * float(greedy["cost_charged"]) + 1e-9
            assert float(search["search_value"]) <= float(greedy["search_value"]) + 1e-9


def test_certificates_are_the_best_of_their_space(written):
    folder, _ = written
    certificates = table(folder, "certificates.csv")
    for one in certificates:
        assert float(one["optimum_perplexity"]) <= float(one["greedy_perplexity"]) + 1e-12
    pairs = next(one for one in certificates if one["space"] == "all plans of 2")
    assert int(pairs["plans"]) == math.comb(6, 2)
    best = min(
        float(s["search_value"])
        for s in table(folder, "searches.csv")
        if (s["granularity"], s["size"], s["data_seed"], s["text"], s["windows"]) == ("block", "2", "0", "prose", "4")
    )
    assert float(pairs["optimum_perplexity"]) <= best + 1e-9


def test_the_gaps_of_the_page_follow_from_the_files(written):
    """By other means than the study's: the mean over seeds, and the interval of windows that are independent here."""
    folder, _ = written
    values = rows(folder)
    documents = [row["document"] for row in table(folder, "windows.csv") if row["text"] == "prose"]
    page = (folder / "study.md").read_text()
    for granularity, size, units in (("block", "2", "blocks"), ("block", "3", "blocks"), ("ffn", "3", "FFNs")):
        differences = [
            values["prose", "loss", plan["portfolio"]] - values["prose", "loss", plan["greedy"]]
            for seed in ("0", "1")
            for plan in [
                {
                    s["method"]: s["plan"]
                    for s in table(folder, "searches.csv")
                    if (s["text"], s["granularity"], s["size"], s["data_seed"]) == ("prose", granularity, size, seed)
                }
            ]
        ]
        mean = np.mean(differences, axis=0)
        (line,) = re.findall(rf"^\| {size} {units} \| portfolio \|.*$", page, flags=re.MULTILINE)[:1]
        if not mean.any():
            assert "the same plans" in line
            continue
        assert f"{math.expm1(mean.mean()):+.1%}" in line
        if len(set(documents)) == len(documents):
            half = stats.t.ppf(0.975, len(mean) - 1) * mean.std(ddof=1) / math.sqrt(len(mean))
            assert f"{math.expm1(mean.mean() - half):+.1%} to {math.expm1(mean.mean() + half):+.1%}" in line


def test_the_recipe_of_the_page_computes_what_it_says(written, monkeypatch, capsys):
    folder, _ = written
    (folder / "docs").mkdir(exist_ok=True)
    if not (folder / "docs" / "study").exists():
        (folder / "docs" / "study").symlink_to(folder / "study")
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "study.md").read_text(), flags=re.DOTALL)
    exec(code, {})
    told = re.search(r"# (\S+)\n*$", code).group(1)
    assert float(capsys.readouterr().out) == pytest.approx(float(told), abs=1e-4)


def test_the_answer_is_in_the_readme_and_on_the_page(written):
    folder, _ = written
    readme = (folder / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "what was there" not in readme
    answer = readme.split("<!-- measured: study -->\n")[1].split("\n<!-- end of study -->")[0]
    assert answer.startswith(("For some removals, yes.", "Not that we could be sure of here."))
    assert f"**Is greedy wrong?** {answer}" in (folder / "study.md").read_text()


def test_again_it_measures_nothing_and_says_the_same(written, monkeypatch):
    folder, setting = written
    before = (folder / "study.md").read_text()
    files = {path: path.read_bytes() for path in (folder / "runs").glob("*/evaluations.jsonl")}
    tables = {name: (folder / "study" / name).read_bytes() for name in ("searches.csv", "rows.csv", "certificates.csv")}
    conduct(setting, folder / "study")
    assert {path: path.read_bytes() for path in (folder / "runs").glob("*/evaluations.jsonl")} == files
    assert {name: (folder / "study" / name).read_bytes() for name in tables} == tables
    write_page(folder / "study", folder / "study.md", None)
    again = (folder / "study.md").read_text()
    minutes = r"healing and drawing \d+"
    assert re.sub(minutes, "", again) == re.sub(minutes, "", before)


@pytest.mark.parametrize("picture", ["gaps", "quality", "texts", "interactions"])
def test_the_pictures_are_there(written, picture):
    folder, _ = written
    assert (folder / "study" / f"{picture}.png").read_bytes()[:4] == b"\x89PNG"
    assert f"study/{picture}.png" in (folder / "study.md").read_text()
