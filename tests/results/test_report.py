"""A report is one page that needs nothing else, says what the runs say, and tells how to repeat them."""

import shlex
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import pytest
from finished import changed, finish
from hypothesis import given, settings
from hypothesis import strategies as st

import searcher
from results.command import ONE_A_LINE, command_line
from results.comparison import Comparison
from results.report import write_report
from results.side_by_side import show_gap
from results.table import plan_cells, shown_plans
from searcher.cli.app import app as cli
from searcher.contracts import registry
from searcher.errors import UsageError
from searcher.runs.config import RunConfig
from searcher.runs.journal import EVALUATIONS_FILE, RUN_FILE
from searcher.runs.options import make_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def greedy(tiny, folder):
    return finish(tiny, folder, "greedy", strategy="greedy", budget=3, objective=["perplexity", "kv-cache"])


@pytest.fixture(scope="module")
def shapley(tiny, folder):
    objectives = ["perplexity", "kv-cache"]
    return finish(tiny, folder, "shapley", strategy="shapley", budget=2, granularity="sublayer", objective=objectives)


def page_of(runs, tmp_path, **options):
    """The page, which must be well-formed, without its doctype."""
    (path, *_) = write_report(runs, tmp_path / "report.html", **options)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def words(element):
    return " ".join(" ".join(element.itertext()).split())


def cells(page):
    return {"".join(cell.itertext()) for cell in page.iter("td")}


def test_the_page_shows_what_the_runs_say(greedy, shapley, tmp_path):
    page = page_of([greedy, shapley], tmp_path)
    shown = cells(page)
    for run in (greedy, shapley):
        for evaluation in (run.dense, *shown_plans(run)):
            assert shown >= set(plan_cells(run, evaluation))
        assert shown >= set(run.record["versions"].values())
        assert run.record["identity"]["text_fingerprint"] in shown
        assert f"cost {run.outcome['cost']['charged']['total']:,.0f}" in words(page)
        assert command_line(run.config, ONE_A_LINE) in {pre.text for pre in page.iter("pre")}
    assert [heading.text for heading in page.iter("h3")] == ["greedy", "shapley"]  # no sizes to compare across units
    assert [figure.get("id") for figure in page.iter("figure")] == [
        "quality",
        "front",
        "units",
        "convergence",
        "shapley",
    ]
    best = [row for row in page.iter("tr") if row.get("class") == "best"]
    assert ["".join(row[1].itertext()) for row in best] == [str(greedy.best.plan), str(shapley.best.plan)]


def test_the_page_needs_nothing_else(greedy, shapley, tmp_path):
    page = page_of([greedy, shapley], tmp_path)
    assert {element.tag for element in page.iter()}.isdisjoint({"script", "link", "iframe", "object", "base", "form"})
    ids = {element.get("id") for element in page.iter()}
    for element in page.iter():
        for name, value in element.items():
            assert not name.startswith("on")
            if name == "href":
                assert value.removeprefix("#") in ids
            elif name == "src":
                assert value.startswith("data:image/svg+xml;base64,")
            else:
                assert "://" not in value
    (style,) = page.iter("style")
    assert "url(" not in style.text
    assert "@import" not in style.text
    for image in page.iter("img"):
        assert greedy.record["model"] in image.get("alt")
    for table in (*page.iter("table"), *page.iter("img")):  # each scrolls by itself, never the page
        assert any(table in box for box in page.iter("div") if box.get("class") == "wide")


HOSTILE = "<script>alert(1)</script>&lt;\"'{{ 7 * 7 }}$x^$"


def test_names_are_never_read_as_html(greedy, tmp_path):
    def rename(record):
        record.update(model=HOSTILE, text=HOSTILE)
        record["config"]["data"] = HOSTILE
        record["outcome"]["notes"]["summary"] = [HOSTILE]

    page = page_of([changed(greedy, tmp_path / "<b>&amp;{{ 1 }}", record=rename)], tmp_path)
    assert not list(page.iter("script"))
    assert not list(page.iter("b"))
    (title,) = page.iter("title")
    assert title.text == f"Prune plans of {HOSTILE}"
    assert words(page).count(HOSTILE) >= 5
    assert f"Kept in {tmp_path}/<b>&amp;{{{{ 1 }}}}" in words(page)
    assert shlex.quote(HOSTILE) in next(page.iter("pre")).text


def test_one_run_alone(shapley, tmp_path):
    page = page_of([shapley], tmp_path)
    assert "The answer" in {heading.text for heading in page.iter("h2")}
    assert next(page.iter("details")).get("open") == "open"
    assert "Side by side" not in words(page)


def test_many_runs(greedy, tmp_path):
    runs = [changed(greedy, tmp_path / f"run-{number}") for number in range(12)]
    page = page_of(runs, tmp_path)
    against, *headings = [heading.text for heading in page.iter("h3")]
    assert headings == [f"run-{number}" for number in range(12)]
    assert against == "Granularity block, against run-0"


def told_sizes(page, verdict):
    for row in page.iter("tr"):
        number, *texts = ("".join(cell.itertext()) for cell in row)
        if verdict in texts:
            first, _, last = number.partition("-")
            yield int(first), int(last or first)


def test_runs_of_one_granularity_stand_side_by_side(tiny, folder, greedy, tmp_path):
    options = {"strategy": "exhaustive", "budget": "1-3", "objective": ["perplexity", "kv-cache"]}
    best = finish(tiny, folder, "best", **options)
    page = page_of([best, greedy], tmp_path)
    shown = cells(page)
    (section,) = Comparison([best, greedy], "perplexity").sections
    assert section.label == "greedy"
    for size in section.sizes:
        assert size.verdict in shown
        assert any(first <= size.size <= last for first, last in told_sizes(page, size.verdict))
        for entry in size.entries[1:]:
            gaps = {"same plan"} if entry.same else {show_gap(entry.search_gap), show_gap(entry.report_gap)}
            assert gaps <= shown


def test_a_model_that_every_plan_breaks(greedy, tmp_path):
    def break_it(line):
        if line["plan"] != "dense" and "perplexity" in line["values"]:
            line["values"]["perplexity"] = ["nan"] * len(line["rows"])

    assert "nan" in cells(page_of([changed(greedy, tmp_path / "broken", line=break_it)], tmp_path))


@pytest.mark.parametrize(
    ("field", "value"), [("report_windows", 99), ("model_fingerprint", "another"), ("text_fingerprint", "another")]
)
def test_runs_that_were_measured_otherwise_are_refused(greedy, tmp_path, field, value):
    other = changed(greedy, tmp_path / "other", record=lambda record: record["identity"].update({field: value}))
    with pytest.raises(UsageError, match=f"{field} is .* in the one, {value} in the other"):
        write_report([greedy, other], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_an_old_report_is_replaced_whole_or_not_at_all(greedy, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(UsageError, match=r"does not measure objective 'perplexty'.*Did you mean 'perplexity'"):
        write_report([greedy], path, objective="perplexty")
    assert path.read_text() == "old"
    write_report([greedy], path)
    assert path.read_text() != "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(UsageError, match="cannot be written"):
        write_report([greedy], tmp_path)
    with pytest.raises(UsageError, match="cannot be written"):
        write_report([greedy], tmp_path / "none" / "report.html")


def test_the_command_writes_the_page_and_the_pictures(greedy, shapley, searcher_command):
    before = {path: path.read_bytes() for path in (greedy.folder / RUN_FILE, greedy.folder / EVALUATIONS_FILE)}
    arguments = [greedy.folder, shapley.folder, "-o", "r.html", "--pictures", "p", "--axes", "kv-cache,perplexity"]
    done = searcher_command("report", *arguments, defaults=False)
    assert done.code == 0, done.err
    names = ["quality", "front", "units", "convergence", "shapley"]
    assert done.out.split() == ["r.html", *(f"p/{name}.{suffix}" for name in names for suffix in ("png", "svg"))]
    for name in names:
        assert Path(f"p/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ET.parse(f"p/{name}.svg").getroot().tag.endswith("svg")
    assert "Pareto fronts: perplexity against kv-cache" in Path("r.html").read_text()
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--axes", "size"], "Axes 'size' are not two names"),
        (["--axes", "size,speed"], "'speed' is nothing that all of these runs can show"),
        (["--objective", "loss"], "does not measure objective 'loss'"),
        (["-o", "no/such/folder.html"], "no/such/folder.html cannot be written"),
        (["no-such-run"], "no-such-run is not a run folder"),
        (["--pictures", "text.txt"], "text.txt cannot be made"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(greedy, searcher_command, arguments, told):
    Path("text.txt").write_text("")
    done = searcher_command("report", greedy.folder, *arguments, defaults=False)
    assert done.code == 2
    assert told in done.err.splitlines()[0]
    assert "Traceback" not in done.err


def test_a_report_from_python(greedy, tmp_path):
    assert searcher.report([greedy, str(greedy.folder)], tmp_path / "r.html") == [tmp_path / "r.html"]


def read_back(command):
    """The configuration that the command line makes of a command, without running it."""
    program, *arguments = shlex.split(command)
    assert program == "searcher"
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searcher, "run", lambda **options: given.update(options) or SimpleNamespace(document=dict))
        patch.setattr("searcher.cli.run.print_json", lambda document: None)
        cli([*arguments, "--format", "json"], standalone_mode=False)
    config = make_config(RunConfig, given)
    known = registry.check_options("strategy", config.strategy, config.strategy_args)  # "8" is 8 there
    return config.model_copy(update={"strategy_args": known})


OPTIONS = st.fixed_dictionaries(
    {"budget": st.sampled_from(["8", "25%", "1-8"])},
    optional={
        "strategy": st.just("shapley"),
        "strategy_args": st.fixed_dictionaries({}, optional={"chains": st.integers(2, 99), "full": st.booleans()}),
        "model": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
        "data": st.sampled_from(["wikitext2", "a b/c'd.txt", "-odd", "--help", "$HOME", "*"]),
        "trust_remote_code": st.booleans(),
        "windows": st.integers(1, 99),
        "objective": st.sampled_from([("loss",), ("perplexity", "kv-cache"), ("a=loss", "b=my file.py:Mine")]),
        "max_cost": st.floats(1e-3, 1e12),
        "timeout": st.sampled_from(["30m", "90"]),
        "keep": st.sampled_from(["0,1", "3.attn"]),
        "granularity": st.just("sublayer"),
        "max_attention": st.integers(0, 9),
        "at_most": st.just({"kv-cache": "60%"}),
        "seed": st.integers(0, 2**40),
        "racing": st.floats(0.001, 0.9),
    },
).filter(lambda o: ("strategy_args" in o) <= ("strategy" in o) and ("max_attention" in o) <= ("granularity" in o))


@settings(max_examples=60, deadline=None)
@given(OPTIONS)
def test_the_command_line_makes_the_same_configuration_again(options):
    config = make_config(RunConfig, options)
    assert read_back(command_line(config)) == config


def test_options_of_objectives_and_weights_come_back():
    fields = {
        "budget": "2",
        "strategy": "greedy",
        "objective": ["loss", "acc=accuracy"],
        "objective_args": {"acc": {"file": "a b.jsonl"}},
        "weight": {"loss": 1.0, "acc": 0.5},
        "at_least": {"acc": "0.5"},
        "at_most": {"kv-cache": "60%", "latency": "0.8"},
    }
    config = make_config(RunConfig, fields)
    assert read_back(command_line(config)) == config


def test_a_shell_reads_the_same_from_one_line_and_from_several():
    config = make_config(RunConfig, {"budget": "1-8", "model": "a  b'\n $HOME", "objective": ["loss", "kl"], "seed": 3})
    one, several = (command_line(config, between) for between in (" ", ONE_A_LINE))
    assert len(several.splitlines()) == 7  # the name of the model is broken too
    read = [subprocess.check_output(["sh", "-c", c.replace("searcher", "printf '<%s>'", 1)]) for c in (one, several)]
    assert read[0] == read[1]
    assert read[0].startswith(b"<run><--model><a  b'\n $HOME><--objective><loss><--objective><kl>")


def test_the_command_repeats_a_run(greedy, searcher_command):
    before = (greedy.folder / EVALUATIONS_FILE).read_bytes()
    _, name, *arguments = shlex.split(command_line(greedy.config))
    done = searcher_command(name, *arguments, defaults=False)
    assert done.code == 0, done.err
    assert (greedy.folder / EVALUATIONS_FILE).read_bytes() == before
